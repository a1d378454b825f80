"""What a request's sampling allows: sending its first token early, splitting it over two lanes."""

from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest

GREEDY_BELOW = 1e-5
"""vLLM samples greedily below this temperature."""


def continuable(request: EngineCoreRequest, sampling: SamplingParams) -> bool:
    """Whether an engine that is given output tokens as part of the prompt goes on exactly as one that produced them.

    Not so where the engine remembers output tokens: a seeded generator has advanced, presence and frequency penalties,
    bad words and the detection of repetitions count outputs only, a grammar is part-way through, and logprobs of the
    first token are the decode lane's to report. A repetition penalty counts prompt and output alike.
    """
    seeded = sampling.seed is not None and sampling.temperature >= GREEDY_BELOW
    remembers = (
        seeded
        or bool(sampling.presence_penalty)
        or bool(sampling.frequency_penalty)
        or bool(sampling.bad_words)
        or sampling.structured_outputs is not None
        or sampling.thinking_token_budget is not None
        or sampling.repetition_detection is not None
    )
    wanted = (sampling.logprobs, sampling.logprob_token_ids, sampling.prompt_logprobs)
    reports = any(logprobs is not None for logprobs in wanted)
    text_only = not request.mm_features and request.prompt_token_ids is not None and request.prompt_embeds is None
    return text_only and not remembers and not reports and not sampling.watermarking


def splittable(request: EngineCoreRequest, sampling: SamplingParams) -> bool:
    """Whether prefill and decode may run on two lanes: not if the engine must read its own prompt for logprobs."""
    return sampling.prompt_logprobs is None and not request.resumable and request.prompt_embeds is None
