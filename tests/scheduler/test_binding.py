"""Binding: who makes requests wait for a lane with room, and for how long."""

import pytest

from streamserve.config import SchedulerConfig
from streamserve.scheduler.binding import MEMORY_S, Binding
from streamserve.signals import LaneLoad, LaneSignals, StepCost
from streamserve.types import LaneId, LaneState, Slo
from tests.fakes import make_request

LANE = LaneId("a")
READY = {LANE: LaneSignals(LANE, LaneState.READY, 0.0, cost=StepCost(prefill_token_s=0.01))}
BUSY = {LANE: LaneLoad(prefill_requests=1, prefill_tokens=10**9)}
NOBODY = frozenset[LaneId]()


def room(binding: Binding, at_s: float) -> frozenset[LaneId] | None:
    return binding.room(READY, BUSY, at_s)


def of(config: SchedulerConfig) -> Binding:
    return Binding(config, ((LANE, LANE),))


def test_a_priority_makes_all_wait_for_a_while_and_a_wish_for_a_latency_does_not() -> None:
    binding = of(SchedulerConfig())
    assert room(binding, 0.0) is None
    binding.saw(make_request(slo=Slo(0.1, 0.01)), 1.0)
    assert room(binding, 1.0) is None
    binding.saw(make_request(priority=-1), 2.0)
    assert room(binding, 2.0 + 0.9 * MEMORY_S) == NOBODY
    assert room(binding, 2.0 + MEMORY_S) is None


@pytest.mark.parametrize("config", [{"order": "slack"}, {"order": "shortest_work"}, {"late_binding": "always"}])
def test_another_order_makes_all_wait_always(config: dict[str, str]) -> None:
    assert room(of(SchedulerConfig(**config)), 1e9) == NOBODY  # type: ignore[arg-type]


def test_without_a_backlog_nobody_waits() -> None:
    binding = of(SchedulerConfig(backlog_s=None, late_binding="always"))
    binding.saw(make_request(priority=-1), 0.0)
    assert room(binding, 0.0) is None
