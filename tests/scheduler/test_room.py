"""Room: which lanes get another prompt."""

import pytest

from streamserve.scheduler.room import Room
from streamserve.signals import LaneLoad, LaneSignals, StepCost
from streamserve.types import LaneId, LaneState

A, B, C = LaneId("a"), LaneId("b"), LaneId("c")
ALL = [(prefill, decode) for prefill in (A, B, C) for decode in (A, B, C)]
FULL = LaneLoad(decode_requests=4)


def room(pairs: list[tuple[LaneId, LaneId]], lost: str = "", **load: LaneLoad) -> set[str]:
    """Of three lanes with 4 places that prefill 100 tokens a second, with a backlog of one second."""
    lanes = {
        lane: LaneSignals(
            lane,
            LaneState.LOST if lane in lost else LaneState.READY,
            0.0,
            max_running=4,
            cost=StepCost(prefill_token_s=0.01),
        )
        for lane in (A, B, C)
    }
    return set(Room(pairs, 1.0).lanes(lanes, {lane: load.get(lane, LaneLoad()) for lane in lanes}))


@pytest.mark.parametrize(
    ("load", "has_room"),
    [
        (LaneLoad(), True),
        (LaneLoad(1, 99, 1), True),
        (LaneLoad(1, 100, 1), False),
        (LaneLoad(0, 5000, 3), True),
        (LaneLoad(0, 0, 4), False),
        (LaneLoad(1, 1, 3), False),
    ],
)
def test_a_lane_has_room_while_its_backlog_is_short_and_its_batch_not_full(load: LaneLoad, has_room: bool) -> None:
    assert room(ALL, a=load) == ({"a", "b", "c"} if has_room else {"b", "c"})


def test_a_lane_that_is_not_ready_has_none() -> None:
    assert room(ALL, lost="ac") == {"b"}


def test_only_lanes_that_may_prefill_count() -> None:
    assert room([(A, B)]) == {"a"}
    assert room([(A, B)], a=LaneLoad(1, 100, 0)) == set()


def test_a_prefill_lane_needs_a_decode_lane_with_a_place() -> None:
    assert room([(A, B), (A, C)], b=FULL) == {"a"}
    assert room([(A, B), (A, C)], b=FULL, c=FULL) == set()
    assert room([(A, B), (C, C)], b=FULL) == {"c"}


def test_without_a_whole_pair_every_ready_lane_serves_alone() -> None:
    assert room([(A, B)], lost="b") == {"a", "c"}
    assert room([(A, B)], lost="b", c=FULL) == {"a"}
