"""Requests for lanes used without the HTTP front: benchmarks and tests."""

from collections.abc import Sequence

from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest

from streamserve.types import Request


def greedy_request(
    request_id: str,
    prompt_token_ids: Sequence[int],
    output_tokens: int,
    arrived_s: float = 0.0,
    max_depth: int | None = None,
) -> Request:
    """A request that takes the likeliest token each time and runs to exactly this many."""
    payload = EngineCoreRequest(
        request_id=request_id,
        external_req_id=request_id,
        prompt_token_ids=list(prompt_token_ids),
        mm_features=None,
        sampling_params=SamplingParams(
            max_tokens=output_tokens,
            temperature=0.0,
            ignore_eos=True,
            extra_args=None if max_depth is None else {"max_depth": max_depth},
        ),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    return Request(
        request_id, prompt_token_ids, output_tokens, arrived_s, payload, continuable=True, max_depth=max_depth
    )
