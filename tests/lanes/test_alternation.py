"""Depth controls that take turns."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streamserve.lanes.vllm.alternation import Alternation
from streamserve.signals import DepthControl, DepthMode

CONTROLS = [DepthControl(DepthMode.FIXED, depth=depth) for depth in range(4)]


@given(st.integers(1, 5), st.integers(1, 6))
def test_every_control_gets_as_many_steps_as_every_other(steps: int, rounds: int) -> None:
    alternation = Alternation(CONTROLS, steps, requests=8)
    turns = []
    for _ in range(steps * rounds * len(CONTROLS)):
        turns.append(alternation.control.depth)
        alternation.step(0.1, tokens=10, draft_tokens=2, requests=8, prefill_tokens=0)
    assert Counter(turns) == dict.fromkeys(range(4), steps * rounds)
    # A turn is not interrupted.
    assert all(len(set(turns[i : i + steps])) == 1 for i in range(0, len(turns), steps))
    assert [tally.steps for tally in alternation.tallies] == [steps * rounds] * 4


def test_a_control_is_credited_with_its_own_steps() -> None:
    alternation = Alternation(CONTROLS, 2, requests=1)
    for _ in range(8):
        depth = alternation.control.depth
        alternation.step(1.0 + depth, tokens=10 * depth, draft_tokens=depth, requests=1, prefill_tokens=0)
    for depth, tally in enumerate(alternation.tallies):
        assert (tally.tokens, tally.seconds, tally.draft_tokens) == (20 * depth, 2.0 + 2 * depth, 2 * depth)


def test_steps_of_another_batch_do_not_count_nor_end_a_turn() -> None:
    alternation = Alternation(CONTROLS, 1, requests=8)
    turn = alternation.control
    alternation.step(0.1, tokens=7, draft_tokens=0, requests=7, prefill_tokens=0)
    alternation.step(0.9, tokens=8, draft_tokens=0, requests=8, prefill_tokens=64)
    assert alternation.control is turn
    assert not any(tally.steps for tally in alternation.tallies)
