"""The two hops of a request as vLLM engine requests."""

from copy import deepcopy
from typing import Any

import pytest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason

from streamserve.lanes.vllm.hops import HOLD_FOR_FETCHING, continues, decode_hop, prefill_hop, release_hop
from streamserve.types import KVHandle, LaneId

KV = KVHandle(LaneId("lane-0"), {"do_remote_prefill": True, "remote_engine_id": "e", "remote_block_ids": [[3, 4]]})


def make_request(**sampling: Any) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id="r",
        prompt_token_ids=[1, 2, 3],
        mm_features=None,
        sampling_params=SamplingParams(**{"max_tokens": 8, **sampling}),
        pooling_params=None,
        arrival_time=1.5,
        lora_request=None,
        cache_salt="salt",
        data_parallel_rank=None,
        priority=2,
    )


def sampling_of(request: EngineCoreRequest) -> SamplingParams:
    assert request.sampling_params is not None
    return request.sampling_params


SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"min_tokens": 3, "extra_args": {"own": {"nested": 1}}},
    {"logprobs": 2, "structured_outputs": StructuredOutputsParams(regex="a+")},
    {"seed": 7, "stop": ["x"], "stop_token_ids": [5], "bad_words": ["y"], "logit_bias": {1: 2.0}},
]


def test_a_cap_on_depth_reaches_the_engine_beside_what_the_client_gave() -> None:
    request = make_request(extra_args={"own": 1, "max_depth": 5})
    hop = decode_hop(request, KV, [9], max_depth=2)
    assert sampling_of(hop).extra_args == {"own": 1, "max_depth": 2, "kv_transfer_params": KV.params}
    assert sampling_of(request).extra_args == {"own": 1, "max_depth": 5}
    assert decode_hop(request, None, ()) is request


class TestPrefillHop:
    def test_asks_for_one_token_and_to_hold_the_kv(self) -> None:
        hop = prefill_hop(make_request(), continuable=True)
        assert sampling_of(hop).max_tokens == 1
        assert sampling_of(hop).extra_args == {"kv_transfer_params": HOLD_FOR_FETCHING}
        assert (hop.request_id, hop.prompt_token_ids, hop.cache_salt, hop.priority) == ("r", [1, 2, 3], "salt", 2)

    @pytest.mark.parametrize("sampling", SAMPLINGS)
    def test_the_request_itself_stays_as_it_is(self, sampling: dict[str, Any]) -> None:
        request = make_request(**sampling)
        before = deepcopy(request)
        prefill_hop(request, continuable=True)
        assert request == before

    def test_a_request_for_one_token_is_whole(self) -> None:
        request = make_request(max_tokens=1, logprobs=1)
        assert prefill_hop(request, continuable=True) is request

    def test_an_unlimited_request_prefills_one_token_as_well(self) -> None:
        assert sampling_of(prefill_hop(make_request(max_tokens=None), continuable=True)).max_tokens == 1

    @pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (5, 1)])
    def test_the_one_token_may_be_the_end_only_if_the_request_allows(self, asked: int, given: int) -> None:
        assert sampling_of(prefill_hop(make_request(min_tokens=asked), continuable=True)).min_tokens == given

    @pytest.mark.parametrize(
        "reported",
        [{"logprobs": 2}, {"logprob_token_ids": [4, 5]}, {"structured_outputs": StructuredOutputsParams(regex="a+")}],
    )
    def test_what_concerns_sampled_tokens_is_the_decode_lanes_and_so_is_the_end(self, reported: dict[str, Any]) -> None:
        hop = sampling_of(prefill_hop(make_request(**reported), continuable=False))
        assert (hop.logprobs, hop.logprob_token_ids, hop.structured_outputs) == (None, None, None)
        assert hop.min_tokens == 1

    def test_how_the_token_is_drawn_and_the_clients_own_arguments_are_kept(self) -> None:
        hop = sampling_of(
            prefill_hop(
                make_request(temperature=0.5, top_k=3, stop_token_ids=[9], extra_args={"own": 1}), continuable=True
            )
        )
        assert (hop.temperature, hop.top_k, hop.stop_token_ids) == (0.5, 3, [9])
        assert hop.extra_args == {"own": 1, "kv_transfer_params": HOLD_FOR_FETCHING}

    def test_every_hop_has_parameters_of_its_own(self) -> None:
        first, second = (sampling_of(prefill_hop(make_request(), continuable=True)).extra_args for _ in range(2))
        assert first is not None
        assert second is not None
        assert first["kv_transfer_params"] is not second["kv_transfer_params"]


class TestDecodeHop:
    def test_a_request_that_starts_here_is_passed_as_it_is(self) -> None:
        request = make_request()
        assert decode_hop(request, None, ()) is request

    @pytest.mark.parametrize("sampling", SAMPLINGS)
    def test_the_request_itself_stays_as_it_is(self, sampling: dict[str, Any]) -> None:
        request = make_request(**sampling)
        before = deepcopy(request)
        decode_hop(request, KV, [7])
        assert request == before

    def test_the_kv_is_fetched_and_the_clients_own_arguments_are_kept(self) -> None:
        hop = decode_hop(make_request(extra_args={"own": 1}), KV, ())
        assert sampling_of(hop).extra_args == {"own": 1, "kv_transfer_params": KV.params}
        assert (sampling_of(hop).max_tokens, hop.prompt_token_ids) == (8, [1, 2, 3])

    @pytest.mark.parametrize(("sent", "max_tokens", "min_tokens"), [([], 8, 2), ([7], 7, 1), ([7, 8, 9], 5, 0)])
    def test_what_was_sent_joins_the_prompt_and_counts(self, sent: list[int], max_tokens: int, min_tokens: int) -> None:
        hop = decode_hop(make_request(min_tokens=2), KV, sent)
        assert hop.prompt_token_ids == [1, 2, 3, *sent]
        assert (sampling_of(hop).max_tokens, sampling_of(hop).min_tokens) == (max_tokens, min_tokens)

    def test_generation_may_go_on_without_kv(self) -> None:
        hop = decode_hop(make_request(), None, [7])
        assert hop.prompt_token_ids == [1, 2, 3, 7]
        assert sampling_of(hop).extra_args is None

    def test_an_unlimited_request_stays_unlimited(self) -> None:
        assert sampling_of(decode_hop(make_request(max_tokens=None), KV, [7])).max_tokens is None

    def test_the_decode_lane_gets_all_that_the_prefill_lane_was_spared(self) -> None:
        grammar = StructuredOutputsParams(regex="a+")
        hop = sampling_of(decode_hop(make_request(logprobs=2, structured_outputs=grammar), KV, ()))
        assert (hop.logprobs, hop.structured_outputs) == (2, grammar)


def test_a_release_is_aborted_on_arrival_and_names_the_kv() -> None:
    hop = release_hop("r", KV)
    assert hop.abort_immediately
    assert sampling_of(hop).extra_args == {"kv_transfer_params": KV.params}
    assert hop.request_id != "r"


@pytest.mark.parametrize(
    ("reason", "params", "expected"),
    [
        (FinishReason.LENGTH, {"remote_engine_id": "e"}, True),
        (FinishReason.LENGTH, None, False),
        (FinishReason.STOP, {"remote_engine_id": "e"}, False),
        (FinishReason.ABORT, None, False),
        (FinishReason.ERROR, None, False),
    ],
)
def test_a_sequence_goes_on_if_it_ended_at_its_one_token_with_its_kv_held(
    reason: FinishReason, params: dict[str, Any] | None, expected: bool
) -> None:
    assert continues(EngineCoreOutput("r", [7], finish_reason=reason, kv_transfer_params=params)) is expected
