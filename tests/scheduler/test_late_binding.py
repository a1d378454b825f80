"""Late binding: requests wait in our queue until a lane has room, in order, and no event that makes room is missed."""

import asyncio
from typing import Any

import pytest

from streamserve.config import SloConfig
from streamserve.errors import NoLane
from streamserve.signals import LaneLoad, Signals
from streamserve.types import Decision, Finish, LaneId, Prediction, Request, Result, Slo
from streamserve.virtual import run
from tests.fakes import expected_tokens, make_request, pair, ticks
from tests.scheduler.rack import Rack, read

ONE_LANE = (("a", "a"),)
TWO_LANES = (("a", "a"), ("b", "b"))
LONG = range(1000)
"""A prompt that takes a fake lane one second to prefill."""


async def test_one_prompt_at_a_time_where_one_fills_the_backlog() -> None:
    async with Rack(ONE_LANE) as rack:
        rack["a"].hold("token")
        reading = [rack.read(make_request(f"r{n}", LONG)) for n in range(3)]
        await ticks()
        assert (len(rack.decisions), rack.scheduler.signals().queued) == (1, 2)
        assert rack.scheduler.signals().room == frozenset()
        rack["a"].step("token")
        await ticks()
        assert (len(rack.decisions), rack.scheduler.signals().queued) == (2, 1)
        rack["a"].free()
        await asyncio.gather(*reading)
        await rack.assert_empty()


async def test_without_a_backlog_everything_is_dispatched_at_once() -> None:
    async with Rack(ONE_LANE, backlog_s=None) as rack:
        rack["a"].hold("token")
        reading = [rack.read(make_request(f"r{n}", LONG)) for n in range(99)]
        await ticks()
        assert (len(rack.decisions), rack.scheduler.signals().room) == (99, None)
        rack["a"].free()
        await asyncio.gather(*reading)
        await rack.assert_empty()


async def test_a_full_batch_is_waited_for() -> None:
    async with Rack(ONE_LANE) as rack:
        streams = [rack.serve(make_request(f"r{n}", [1])) for n in range(64)]
        for stream in streams:
            await anext(stream)
        assert rack.load[LaneId("a")] == LaneLoad(decode_requests=64)
        reading = rack.read(make_request("next", [1]))
        await ticks()
        assert rack.scheduler.signals().queued == 1
        await streams[0].aclose()
        assert len(await reading) == 4
        for stream in streams:
            await stream.aclose()
        await rack.assert_empty()


async def test_each_router_call_sees_the_load_of_the_one_before_and_the_lanes_with_room() -> None:
    async with Rack(TWO_LANES, router="least_loaded") as rack:
        for lane in rack.lanes.values():
            lane.hold("token")
        reading = [rack.read(make_request(f"r{n}", LONG)) for n in range(2)]
        await ticks()
        assert [signals.queued for _, signals in rack.router.asked] == [0, 0]
        (_, first), (_, second) = rack.router.asked
        assert (first.room, second.room) == (frozenset(rack.lanes), frozenset({LaneId("b")}))
        assert second.load[LaneId("a")].prefill_tokens == 1000
        assert rack.chosen == [("a", "a"), ("b", "b")]
        for lane in rack.lanes.values():
            lane.free()
        await asyncio.gather(*reading)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ["long", "short", "tight", "urgent"]),
        ({"order": "shortest_work"}, ["short", "tight", "urgent", "long"]),
    ],
)
async def test_the_queue_is_ordered(config: dict[str, Any], expected: list[str]) -> None:
    async with Rack(ONE_LANE, max_dispatched=1, **config) as rack:
        rack["a"].hold("token")
        reading = [rack.read(make_request("first"))]
        await ticks()
        reading.append(rack.read(make_request("long", LONG, 100)))
        reading.append(rack.read(make_request("short")))
        reading.append(rack.read(make_request("tight", max_tokens=9)))
        reading.append(rack.read(make_request("urgent", max_tokens=10)))
        await ticks()
        rack["a"].free()
        await asyncio.gather(*reading)
        assert [result.request_id for result in rack.results] == ["first", *expected]


async def test_priority_comes_before_slack_and_slack_before_arrival() -> None:
    async with Rack(ONE_LANE, max_dispatched=1) as rack:
        rack["a"].hold("token")
        names: list[tuple[str, dict[str, Any]]] = [
            ("first", {}),
            ("batch", {"priority": 10, "slo": Slo(0.1)}),
            ("default", {}),
            ("patient", {"slo": Slo(60.0)}),
            ("hurried", {"slo": Slo(0.5)}),
            ("interactive", {"priority": -10, "slo": Slo(60.0)}),
        ]
        reading = []
        for name, fields in names:
            reading.append(rack.read(make_request(name, **fields)))
            await ticks()
        rack["a"].free()
        await asyncio.gather(*reading)
        order = [result.request_id for result in rack.results]
        assert order == ["first", "interactive", "hurried", "default", "patient", "batch"]


def test_a_queue_behind_the_only_lane_with_room_moves_on_when_that_lane_dies_and_returns() -> None:
    async def main() -> None:
        async with Rack(TWO_LANES, router="least_loaded") as rack:
            rack["a"].hold("start")
            rack["a"].die()
            rack["b"].hold("token")
            requests = [make_request(f"r{n}", LONG) for n in range(4)]
            reading = [rack.read(request) for request in requests]
            await ticks()
            assert rack.scheduler.signals().queued == 3
            rack["b"].free()
            rack["b"].hold("start")
            rack["b"].die()
            await asyncio.sleep(5)
            assert rack.scheduler.signals().queued >= 2
            rack["a"].free()
            assert await asyncio.gather(*reading) == [expected_tokens(request) for request in requests]
            assert {result.finish for result in rack.results} == {Finish.LENGTH}
            await rack.assert_empty()

    run(main())


def test_who_waits_for_room_on_lanes_that_never_return_gets_no_lane() -> None:
    async def main() -> None:
        async with Rack(ONE_LANE, lane_wait_s=30.0) as rack:
            rack["a"].hold("token", "start")
            reading = [rack.read(make_request(f"r{n}", LONG)) for n in range(3)]
            await asyncio.sleep(7)
            rack["a"].die()
            outcomes = await asyncio.gather(*reading, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [NoLane] * 3
            assert asyncio.get_running_loop().time() == 37.0
            await rack.assert_empty()

    run(main())


async def test_a_request_that_lost_its_lane_goes_before_all_others_and_waits_for_no_room() -> None:
    async with Rack(TWO_LANES, router="least_loaded") as rack:
        for lane in rack.lanes.values():
            lane.hold("token")
        reading = [rack.read(make_request(f"r{n}", LONG, priority=2 - n)) for n in range(4)]
        await ticks()
        assert [request.id for request, _ in rack.router.asked] == ["r0", "r1"]
        rack["a"].die()
        await ticks()
        again, signals = rack.router.asked[-1]
        assert (again.id, signals.room) == ("r0", None)
        assert rack.scheduler.signals().queued == 2
        for lane in rack.lanes.values():
            lane.free()
        await asyncio.gather(*reading)
        await rack.assert_empty()


async def test_results_tell_the_wait_the_wishes_and_the_priority() -> None:
    async with Rack(ONE_LANE, slo=SloConfig(ttft_s=9.0, tpot_s=0.5)) as rack:
        await read(rack.serve(make_request(slo=Slo(tpot_s=0.25), priority=-3)))
        (result,) = rack.results
        assert (result.slo, result.priority) == (Slo(9.0, 0.25), -3)
        assert result.dispatched_s is not None
        assert result.dispatched_s <= result.finished_s
        assert rack.router.asked[0][0].slo == Slo(9.0, 0.25)


class Predicting:
    """Predicts that most of the prompt is cached."""

    def __init__(self, prefill: str, decode: str) -> None:
        self.lanes = prefill, decode

    def route(self, request: Request, signals: Signals) -> Decision:
        found = pair(*self.lanes)
        return Decision(found.prefill, found.decode, "test", "cached", prediction=Prediction(1.0, 0.1, 2.0, 900))

    def learn(self, result: Result) -> None:
        raise ZeroDivisionError


async def test_cached_tokens_are_no_backlog_and_a_router_that_cannot_learn_still_routes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Rack(ONE_LANE, router="round_robin") as rack:
        rack.router.router = Predicting("a", "a")
        rack["a"].hold("token")
        reading = rack.read(make_request(prompt=LONG))
        await ticks()
        assert rack.load[LaneId("a")].prefill_tokens == 100
        rack["a"].free()
        await reading
    async with Rack(ONE_LANE) as rack:
        rack.router.learn = Predicting("a", "a").learn  # type: ignore[method-assign]
        assert len(await read(rack.serve(make_request()))) == 4
        assert len(rack.results) == 1
    assert "could not learn from request r" in caplog.text


async def test_a_prediction_of_a_pair_is_not_kept_for_one_lane() -> None:
    async with Rack((("a", "b"),)) as rack:
        rack.router.router = Predicting("a", "b")
        await read(rack.serve(make_request(splittable=False)))
        assert [decision.prediction for decision in rack.decisions] == [None]
