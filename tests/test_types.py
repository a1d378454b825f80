"""The arithmetic of the vocabulary."""

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.signals import LaneLoad, LaneSignals, Signals
from streamserve.types import Finish, LaneId, LaneState, Result
from tests.fakes import make_request, pair

RESULT = Result(
    request_id="r",
    decision=None,
    prompt_tokens=3,
    output_tokens=5,
    arrived_s=10.0,
    finished_s=13.0,
    finish=Finish.STOP,
    first_token_s=11.0,
)

seconds = st.floats(0, 1e4, allow_nan=False)


def test_result_latencies_are_those_of_the_benchmark() -> None:
    assert RESULT.e2e_s == 3.0
    assert RESULT.ttft_s == 1.0
    assert RESULT.tpot_s == 0.5


@given(waited=seconds, decoded=seconds, tokens=st.integers(2, 1000))
def test_e2e_is_ttft_plus_tpot_of_all_tokens_after_the_first(waited: float, decoded: float, tokens: int) -> None:
    result = replace(RESULT, first_token_s=10.0 + waited, finished_s=10.0 + waited + decoded, output_tokens=tokens)
    assert result.ttft_s is not None and result.tpot_s is not None
    assert result.e2e_s == pytest.approx(result.ttft_s + result.tpot_s * (tokens - 1), abs=1e-6)


@pytest.mark.parametrize("output_tokens", [0, 1])
def test_tpot_needs_two_tokens(output_tokens: int) -> None:
    assert replace(RESULT, output_tokens=output_tokens).tpot_s is None


def test_no_first_token_means_no_ttft_and_no_tpot() -> None:
    silent = replace(RESULT, first_token_s=None, output_tokens=0)
    assert silent.ttft_s is None
    assert silent.tpot_s is None


def test_a_pair_of_two_lanes_is_disaggregated() -> None:
    assert pair("a", "b").disaggregated
    assert not pair("a", "a").disaggregated


@pytest.mark.parametrize("state", LaneState)
def test_only_a_ready_lane_is_ready(state: LaneState) -> None:
    lane = LaneId("a")
    signals = Signals(0.0, {lane: LaneSignals(lane, state, 0.0)}, {lane: LaneLoad()})
    assert signals.ready(lane) is (state is LaneState.READY)


def test_load_counts_both_kinds_of_requests() -> None:
    assert LaneLoad(prefill_requests=2, prefill_tokens=900, decode_requests=3).requests == 5


def test_values_are_frozen_and_prompts_are_counted() -> None:
    request = make_request(prompt=(1, 2, 3, 4))
    assert request.prompt_tokens == 4
    with pytest.raises(FrozenInstanceError):
        request.max_tokens = 9  # type: ignore[misc]
