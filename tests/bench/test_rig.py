"""The rig's own parts, over fake lanes: names, idleness, prefix caches."""

import pytest

from streamserve import config as configuration
from streamserve import virtual
from streamserve.bench import rig
from streamserve.config import Config, LaneConfig
from streamserve.types import Decision, LaneId
from tests.bench.slow import SlowLane
from tests.fakes import FakeLane, make_request, started


def test_a_set_s_lanes_are_renamed_in_its_pairs_too() -> None:
    pair = (LaneId("a"), LaneId("b"))
    config = Config(lanes=[LaneConfig(pair[0]), LaneConfig(pair[1], cores=2)], pairs=[pair])
    renamed = rig.renamed(config, "two")
    assert [(lane.id, lane.cores) for lane in renamed.lanes] == [("two-a", 1), ("two-b", 2)]
    assert renamed.stream_pairs() == (("two-a", "two-b"),)
    assert rig.renamed(configuration.load("unified"), "one").stream_pairs() == (("one-lane-0", "one-lane-0"),)


def test_a_busy_lane_is_waited_for() -> None:
    async def scenario() -> None:
        lane = SlowLane(turn_s=0.5)
        await lane.start(lambda lane, stage: None)
        stream = await lane.decode(make_request(max_tokens=2))
        with pytest.raises(TimeoutError, match="lane-0 still busy"):
            await rig.idle({lane.id: lane}, limit_s=1.0)
        _ = [chunk async for chunk in stream]
        await rig.idle({lane.id: lane}, limit_s=1.0)

    virtual.run(scenario())


def test_prefixes_and_texts_are_forgotten_once_the_engine_lets_go() -> None:
    async def scenario() -> None:
        lane = SlowLane()
        lane.refusals = 3
        await rig.forget_prefixes({lane.id: lane})
        assert lane.calls == [("call", "streamserve_forget_history"), *[("call", "reset_prefix_cache")] * 4]
        lane.refusals = 10_000
        with pytest.raises(TimeoutError, match="lane-0 holds KV blocks"):
            await rig.forget_prefixes({lane.id: lane}, limit_s=2.0)

    virtual.run(scenario())


async def test_a_lane_without_a_way_into_its_engine_is_left_alone() -> None:
    lanes = await started("a")
    await rig.forget_prefixes(dict(lanes))
    assert await rig.call(FakeLane(), "anything") is None


async def test_a_new_scheduler_routes_over_the_same_lanes() -> None:
    lanes = await started("a", "b")
    config = Config(lanes=[LaneConfig(lane) for lane in lanes], pairs="own", router="round_robin")
    lane_set = rig.LaneSet(config, dict(lanes))
    decisions: list[Decision] = []
    for _ in range(2):
        scheduler = lane_set.scheduler(lambda result: None)
        for number in range(2):
            stream = scheduler.serve(make_request(f"r{number}"), decisions.append)
            assert [chunk async for chunk in stream][-1].finish is not None
        await scheduler.close()
    assert [decision.decode for decision in decisions] == ["a", "b", "a", "b"]


async def test_a_run_may_have_a_router_of_its_own() -> None:
    lanes = await started("a")
    lane_set = rig.LaneSet(Config(lanes=[LaneConfig(LaneId("a"))], router="round_robin"), dict(lanes))
    other = Config(lanes=[LaneConfig(LaneId("a"))], router="least_loaded")
    decisions: list[Decision] = []
    for config in (None, other):
        scheduler = lane_set.scheduler(lambda result: None, config)
        assert [chunk async for chunk in scheduler.serve(make_request(), decisions.append)]
        await scheduler.close()
    assert [decision.router for decision in decisions] == ["round_robin", "least_loaded"]
