"""The two hops of a request as engine requests: what to ask of the prefill lane, and of the decode lane after it."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason

from streamserve.types import KVHandle

HOLD_FOR_FETCHING = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def prefill_hop(request: EngineCoreRequest, continuable: bool) -> EngineCoreRequest:
    """One token of the request, with the prompt's KV held for a decode lane; nothing held if one token is all.

    continuable: whether that token is sent to the client; if not, the decode lane samples the first token itself.
    """
    sampling = _sampling(request)
    if sampling.max_tokens == 1:
        return request
    # A grammar and logprobs concern the token that the decode lane samples, and the one drawn here must not be the end.
    sampling.structured_outputs = None
    sampling.logprobs = None
    sampling.logprob_token_ids = None
    sampling.min_tokens = min(sampling.min_tokens, 1) if continuable else 1
    sampling.max_tokens = 1
    sampling.extra_args = {**(sampling.extra_args or {}), "kv_transfer_params": dict(HOLD_FOR_FETCHING)}
    hop = copy(request)
    hop.sampling_params = sampling
    return hop


def decode_hop(
    request: EngineCoreRequest, kv: KVHandle | None, sent: Sequence[int], max_depth: int | None = None
) -> EngineCoreRequest:
    """The rest of the request after the output tokens `sent`, fetching the prompt's KV if `kv` says where it lies.

    max_depth: the most draft tokens that a step may verify for it, None = as the request itself says.
    """
    if kv is None and not sent and max_depth is None:
        return request
    sampling = _sampling(request)
    if max_depth is not None:
        sampling.extra_args = {**(sampling.extra_args or {}), "max_depth": max_depth}
    if sampling.max_tokens is not None:
        sampling.max_tokens -= len(sent)
    sampling.min_tokens = max(0, sampling.min_tokens - len(sent))
    if kv is not None:
        sampling.extra_args = {**(sampling.extra_args or {}), "kv_transfer_params": dict(kv.params)}
    hop = copy(request)
    hop.sampling_params = sampling
    hop.prompt_token_ids = [*(request.prompt_token_ids or ()), *sent]
    return hop


def release_hop(request_id: str, kv: KVHandle) -> EngineCoreRequest:
    """A request that is aborted on arrival: its engine's connector then tells the holder of `kv` to free it."""
    extra: dict[str, Any] = {"kv_transfer_params": dict(kv.params)}
    return EngineCoreRequest(
        request_id=f"release-{request_id}",
        prompt_token_ids=[0],
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=1, extra_args=extra, watermarking=False),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        abort_immediately=True,
    )


def continues(output: EngineCoreOutput) -> bool:
    """Whether the sequence goes on after a prefill hop: it ended at its one token only, and its KV is held."""
    return output.finish_reason is FinishReason.LENGTH and output.kv_transfer_params is not None


def _sampling(request: EngineCoreRequest) -> SamplingParams:
    assert request.sampling_params is not None
    return copy(request.sampling_params)
