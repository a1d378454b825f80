"""The supervisor: lanes come up together, come back after a loss, and go down together."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from streamserve.clock import now
from streamserve.errors import LaneStartError
from streamserve.pipeserve.supervisor import STEADY_S, Supervisor, health
from streamserve.protocols import Lane
from streamserve.signals import LaneSignals
from streamserve.types import LaneId, LaneState
from streamserve.virtual import run
from tests.fakes import FakeLane, ticks
from tests.flaky import FlakyLane

BACKOFF_S = (1.0, 4.0, 16.0)
REFUSED = LaneStartError("lane bad did not start: see its log")


def quiet(lane: LaneId, stage: str) -> None:
    assert lane and stage


async def restarted_after(lane: FakeLane, supervisor: Supervisor, die: bool = True) -> float:
    """Kill the lane and measure how long it takes to be ready again."""
    await ticks()
    died_s = now()
    if die:
        lane.die()
    await supervisor.changed()
    assert lane.state is LaneState.READY
    return now() - died_s


def supervised(lanes: Sequence[Lane], body: Callable[[Supervisor], Coroutine[Any, Any, None]]) -> None:
    """Run the body, in virtual time, with a started supervisor that is closed afterwards."""

    async def main() -> None:
        supervisor = Supervisor(lanes, BACKOFF_S)
        await supervisor.start(quiet)
        try:
            await body(supervisor)
        finally:
            await supervisor.aclose()

    run(main())


def test_lanes_start_at_the_same_time_and_report_progress() -> None:
    async def main() -> None:
        lanes = [FakeLane("a"), FakeLane("b")]
        for lane in lanes:
            lane.hold("start")
        told: list[tuple[str, str]] = []
        supervisor = Supervisor(lanes, BACKOFF_S)
        start = asyncio.create_task(supervisor.start(lambda lane, stage: told.append((lane, stage))))
        await ticks()
        assert [lane.waiting("start") for lane in lanes] == [1, 1]
        assert told == [("a", "starting"), ("b", "starting")]
        assert not start.done()
        for lane in lanes:
            lane.step("start")
        await start
        assert [lane.state for lane in lanes] == [LaneState.READY] * 2
        await supervisor.aclose()

    run(main())


def test_one_lane_that_fails_to_start_stops_the_others() -> None:
    async def main() -> None:
        good, bad = FakeLane("good"), FakeLane("bad")
        good.hold("start")
        supervisor = Supervisor([good, FlakyLane(bad, {"start": [REFUSED]})], BACKOFF_S)
        with pytest.raises(LaneStartError, match="lane bad"):
            await supervisor.start(quiet)
        assert [good.state, bad.state] == [LaneState.STOPPED] * 2
        assert good.starts == 0

    run(main())


def test_cancelled_start_stops_all_lanes() -> None:
    async def main() -> None:
        lanes = [FakeLane("a"), FakeLane("b")]
        lanes[1].hold("start")
        start = asyncio.create_task(Supervisor(lanes, BACKOFF_S).start(quiet))
        await ticks()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert [lane.state for lane in lanes] == [LaneState.STOPPED] * 2

    run(main())


def test_a_lost_lane_is_restarted_after_longer_and_longer_pauses(caplog: pytest.LogCaptureFixture) -> None:
    lane, other = FakeLane("a"), FakeLane("b")

    async def body(supervisor: Supervisor) -> None:
        assert [await restarted_after(lane, supervisor) for _ in range(5)] == [1.0, 4.0, 16.0, 16.0, 16.0]
        assert other.starts == 1

    with caplog.at_level(logging.WARNING):
        supervised([lane, other], body)
    assert len(caplog.messages) == 5
    assert caplog.messages[0] == "lane a is lost (killed by the test); restarting it in 1 s"


def test_the_pauses_start_over_once_a_lane_was_ready_for_a_while() -> None:
    lane = FakeLane("a")

    async def body(supervisor: Supervisor) -> None:
        assert [await restarted_after(lane, supervisor) for _ in range(2)] == [1.0, 4.0]
        await asyncio.sleep(STEADY_S)
        assert await restarted_after(lane, supervisor) == 1.0

    supervised([lane], body)


@pytest.mark.parametrize("failure", [REFUSED, RuntimeError("a bug in a lane")], ids=["LaneStartError", "bug"])
def test_a_failed_restart_counts_as_another_loss(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    lane = FakeLane("a")

    async def body(supervisor: Supervisor) -> None:
        assert await restarted_after(lane, supervisor) == 1.0 + 4.0

    supervised([FlakyLane(lane, {"start": [None, failure]})], body)
    assert type(failure).__name__ in caplog.messages[1]


def test_changed_wakes_every_waiter_and_then_waits_for_the_next_lane() -> None:
    lane = FakeLane("a")

    async def body(supervisor: Supervisor) -> None:
        waiters = [asyncio.create_task(supervisor.changed()) for _ in range(3)]
        await ticks()
        assert not any(waiter.done() for waiter in waiters)
        lane.die()
        await asyncio.gather(*waiters)
        again = asyncio.create_task(supervisor.changed())
        await ticks()
        assert not again.done()
        again.cancel()

    supervised([lane], body)


def test_aclose_during_a_pause_or_a_restart_leaves_no_task_and_no_lane() -> None:
    async def main() -> None:
        lanes = [FakeLane("pausing"), FakeLane("restarting"), FakeLane("fine")]
        supervisor = Supervisor(lanes, BACKOFF_S)
        await supervisor.start(quiet)
        lanes[1].hold("start")
        lanes[1].die()
        await asyncio.sleep(2.0)
        lanes[0].die()
        await ticks()
        assert lanes[1].waiting("start") == 1
        await supervisor.aclose()
        await supervisor.aclose()
        assert [lane.state for lane in lanes] == [LaneState.STOPPED] * 3
        assert [lane.calls.count(("close", lane.id)) for lane in lanes] == [1, 1, 1]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_lane_that_fails_to_close_does_not_keep_the_others_open() -> None:
    class Stuck(FakeLane):
        async def aclose(self) -> None:
            raise OSError("no such process")

    async def main() -> None:
        other = FakeLane("b")
        supervisor = Supervisor([Stuck("a"), other], BACKOFF_S)
        await supervisor.start(quiet)
        with pytest.raises(ExceptionGroup, match="failed to close"):
            await supervisor.aclose()
        assert other.state is LaneState.STOPPED

    run(main())


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["ready", "ready"], "ready"),
        (["ready", "lost"], "degraded"),
        (["starting", "ready", "stopped"], "degraded"),
        (["starting", "lost"], "not ready"),
        ([], "not ready"),
    ],
)
def test_health(states: list[str], expected: str) -> None:
    lanes = [LaneSignals(LaneId(f"lane-{i}"), LaneState(state), 0.0) for i, state in enumerate(states)]
    assert health({lane.lane: lane for lane in lanes}) == expected
