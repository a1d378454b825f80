"""Work: what requests are predicted to cost, and how the share of generated tokens is learned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.scheduler.work import MEMORY_TOKENS, Costs, Work, WorkEstimate, costs
from streamserve.signals import LaneSignals, StepCost
from streamserve.types import LaneId, LaneState
from tests.fakes import make_request


def lane(
    prefill_token_s: float, state: LaneState = LaneState.READY, running: int = 0, output: float = 1
) -> LaneSignals:
    cost = StepCost(((1, 0.1), (11, 0.2)), prefill_token_s)
    return LaneSignals(LaneId("a"), state, 0.0, running=running, step_output=output, cost=cost)


def test_costs_are_those_of_the_middle_ready_lane() -> None:
    lanes = {LaneId(str(n)): lane(n, running=11 if n == 3 else 0) for n in (1, 2, 3)}
    assert costs(lanes) == Costs(2, 0.1)
    assert costs({**lanes, LaneId("9"): lane(9, LaneState.LOST)}) == Costs(2, 0.1)
    assert costs({LaneId("9"): lane(9, LaneState.LOST)}) == Costs(9, 0.1)


def test_accepted_draft_tokens_make_output_cheaper_and_a_full_batch_dearer() -> None:
    assert costs({LaneId("a"): lane(1, output=2)}).output_token_s == 0.05
    assert costs({LaneId("a"): lane(1, running=11)}).output_token_s == 0.2


def test_a_request_is_prefill_and_the_usual_share_of_its_limit() -> None:
    estimate = WorkEstimate()
    request = make_request(prompt=range(50), max_tokens=100)
    assert estimate.of(request, Costs(0.01, 0.1)) == Work(0.5, 10.0)
    estimate.learn(1000, 250)
    assert estimate.of(request, Costs(0.01, 0.1)) == Work(0.5, 2.5)


def test_what_is_old_is_forgotten() -> None:
    estimate = WorkEstimate()
    for _ in range(1000):
        estimate.learn(1000, 1000)
    for _ in range(300):
        estimate.learn(1000, 100)
    assert estimate.output_share == pytest.approx(0.1, abs=0.05)
    assert estimate.output_share > 0.1


@given(st.lists(st.tuples(st.integers(0, int(3 * MEMORY_TOKENS)), st.floats(0, 1))))
def test_the_share_stays_a_share(ended: list[tuple[int, float]]) -> None:
    estimate = WorkEstimate()
    for max_tokens, share in ended:
        estimate.learn(max_tokens, int(max_tokens * share))
        assert 0 <= estimate.output_share <= 1 + 1e-9
