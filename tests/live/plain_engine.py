"""One plain vLLM engine, run as a program: reads {model, dtype, max_tokens, prompts} and writes the greedy outputs.

Stock vLLM with its own executor, over all cores.
"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams, TokensPrompt


def main() -> None:
    ask = json.load(sys.stdin)
    engine = LLM(
        ask["model"], dtype=ask["dtype"], enforce_eager=True, kv_cache_memory_bytes=2**30, max_num_seqs=64, seed=0
    )
    sampling = SamplingParams(max_tokens=ask["max_tokens"], temperature=0.0, ignore_eos=True)
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in ask["prompts"]]
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    answer = {"tokens": [output.outputs[0].token_ids for output in outputs]}
    Path(sys.argv[1]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
