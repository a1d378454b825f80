"""Load: every part of a request is counted where it runs, and taken off once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.scheduler.load import IDLE, Dispatched, Load
from streamserve.signals import LaneLoad
from streamserve.types import LaneId
from tests.fakes import pair

A, B, C = (LaneId(name) for name in "abc")


def test_a_request_counts_as_prefill_and_as_decode_on_the_lanes_of_its_pair() -> None:
    load = Load(lambda: 0.0)
    dispatched = Dispatched(load, pair("a", "b"), 100)
    assert load.of([A, B, C]) == {
        A: LaneLoad(prefill_requests=1, prefill_tokens=100),
        B: LaneLoad(decode_requests=1, awaited_requests=1),
        C: IDLE,
    }
    dispatched.prefilled()
    assert load.of([A, B]) == {A: IDLE, B: LaneLoad(decode_requests=1)}
    dispatched.finished()
    assert load.of([A, B]) == {A: IDLE, B: IDLE}


def test_one_lane_counts_both_parts() -> None:
    load = Load(lambda: 0.0)
    Dispatched(load, pair("a", "a"), 7)
    assert load.of([A]) == {A: LaneLoad(prefill_requests=1, prefill_tokens=7, decode_requests=1)}


@pytest.mark.parametrize("lanes", [("a", "b"), ("a", "a")])
@given(prompts=st.lists(st.integers(0, 999), max_size=8), reports=st.lists(st.tuples(st.integers(0, 7), st.booleans())))
def test_counts_are_the_sum_of_what_is_unfinished(
    lanes: tuple[str, str], prompts: list[int], reports: list[tuple[int, bool]]
) -> None:
    load = Load(lambda: 0.0)
    dispatched = [Dispatched(load, pair(*lanes), tokens) for tokens in prompts]
    prefilling, decoding = set(range(len(prompts))), set(range(len(prompts)))
    for n, finished in reports:
        if n < len(prompts):
            prefilling.discard(n)
            if finished:
                decoding.discard(n)
                dispatched[n].finished()
            else:
                dispatched[n].prefilled()
    counts = list(load.of({A, B}).values())
    assert sum(lane.prefill_requests for lane in counts) == len(prefilling)
    assert sum(lane.prefill_tokens for lane in counts) == sum(prompts[n] for n in prefilling)
    assert sum(lane.decode_requests for lane in counts) == len(decoding)
    split = lanes[0] != lanes[1]
    assert sum(lane.awaited_requests for lane in counts) == (len(prefilling) if split else 0)
    assert sum(lane.owed for lane in counts) == (len(decoding) if split else len(prefilling) + len(decoding))
