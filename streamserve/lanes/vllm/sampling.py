"""Sampling that vLLM gives up for a whole lane as soon as the lane speculates."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import LogitsProcessors, build_logitsprocs
from vllm.v1.worker import gpu_model_runner


def keep_min_p_and_logit_bias() -> None:
    """Have this process's model runner apply them: requests that ask for them verify no draft (`scheduler.depth_cap`).

    vLLM drops both processors from a lane that may speculate and refuses the requests at the front, which we do not.
    Every request's last token of a step is sampled with all processors, and a request at depth 0 has only that one.
    """
    gpu_model_runner.build_logitsprocs = _build


def _build(
    vllm_config: VllmConfig,
    device: Any,
    is_pin_memory: bool,
    is_pooling_model: bool,
    custom_logitsprocs: Sequence[Any] = (),
) -> LogitsProcessors:
    without = vllm_config
    if not custom_logitsprocs:
        # Processors of the user's own stay refused: vLLM does not apply them to draft tokens.
        without = copy(vllm_config)
        without.speculative_config = None
    return build_logitsprocs(without, device, is_pin_memory, is_pooling_model, custom_logitsprocs)
