"""Admission: who gets a place when, and that no place is ever lost."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.errors import Overloaded
from streamserve.scheduler.record import Record
from streamserve.signals import LaneLoad
from streamserve.types import LaneId
from streamserve.virtual import run
from tests.fakes import make_request, ticks
from tests.scheduler.desk import Desk

LANE = LaneId("a")


async def test_places_first_then_the_queue_by_priority_and_order() -> None:
    desk = Desk(1, 10)
    desk.join("first")
    await ticks()
    desk.join("late", due_s=2.0)
    desk.join("early", due_s=1.0)
    desk.join("unimportant", priority=5)
    desk.join("urgent", priority=-1, due_s=9.0)
    desk.join("late too", due_s=2.0)
    await ticks()
    assert desk.admission.queued == 5
    for _ in range(5):
        desk.release()
        await ticks()
    assert desk.served == ["first", "urgent", "early", "late", "late too", "unimportant"]
    assert desk.admission.queued == 0
    await desk.close()


async def test_a_full_queue_refuses_and_says_what_to_do() -> None:
    desk = Desk(1, 2)
    for name in "abc":
        desk.join(name)
    await ticks()
    with pytest.raises(Overloaded, match=r"2 requests are waiting.*raise scheduler\.max_queued"):
        await desk.enter(Record(make_request(priority=-9)))
    assert (desk.served, desk.admission.queued) == (["a"], 2)
    await desk.close()


async def test_check_counts_free_places_before_the_queue() -> None:
    desk = Desk(2, 3)
    desk.admission.check(5)
    with pytest.raises(Overloaded):
        desk.admission.check(6)
    for name in "abc":
        desk.join(name)
    await ticks()
    desk.admission.check(2)
    with pytest.raises(Overloaded):
        desk.admission.check(3)
    await desk.close()


async def test_free_places_do_not_help_who_waits_for_room() -> None:
    desk = Desk(9, 2)
    desk.room = 0
    for name in "ab":
        desk.join(name)
    await ticks()
    with pytest.raises(Overloaded):
        desk.admission.check()
    with pytest.raises(Overloaded):
        await desk.enter(Record(make_request("c")))
    desk.room = 1
    desk.admission.look()
    desk.admission.check()
    await desk.close()


async def test_no_queue_at_all_still_serves() -> None:
    desk = Desk(1, 0)
    desk.admission.check()
    held = await desk.enter(Record(make_request("a")))
    with pytest.raises(Overloaded):
        await desk.enter(Record(make_request("b")))
    desk.admission.leave(held)
    await desk.enter(Record(make_request("c")))
    assert desk.served == ["a", "c"]


async def test_leaving_the_queue_makes_room_at_once() -> None:
    desk = Desk(1, 1)
    await desk.enter(Record(make_request()))
    cancel = desk.join("leaves")
    await ticks()
    cancel()
    await ticks()
    assert desk.admission.queued == 0
    desk.admission.check()
    await desk.close()


async def test_a_place_granted_to_a_request_cancelled_in_the_same_turn_goes_on() -> None:
    for grant_first in (True, False):
        desk = Desk(1, 10)
        held = await desk.enter(Record(make_request("held")))
        cancel = desk.join("cancelled")
        desk.join("next")
        await ticks()

        def release(desk: Desk = desk, held: Record = held) -> None:
            desk.admission.leave(held)

        acts: list[Callable[[], object]] = [release, cancel] if grant_first else [cancel, release]
        for act in acts:
            act()
        await ticks()
        assert desk.served == ["held", "next"]
        assert desk.admission.queued == 0
        assert desk.load.of([LANE])[LANE].requests == 4, "the cancelled one's load was taken off"
        await desk.close()


async def test_the_first_in_line_waits_for_room_and_nobody_overtakes_it() -> None:
    desk = Desk(9, 9)
    desk.room = 0
    for n in range(4):
        desk.join(f"r{n}", due_s=-n)
    await ticks()
    for n in range(1, 5):
        desk.room = 1
        desk.admission.look()
        await ticks()
        assert len(desk.served) == n
    assert desk.served == ["r3", "r2", "r1", "r0"]
    await desk.close()


async def test_who_holds_a_place_comes_before_all_new_ones_and_needs_no_other() -> None:
    desk = Desk(1, 0)
    held = await desk.enter(Record(make_request("again", priority=9), due_s=9.0))
    desk.ready = False
    again = asyncio.create_task(desk.enter(held))
    await ticks()
    assert desk.admission.queued == 0
    desk.become_ready()
    await again
    assert desk.served == ["again", "again"]
    desk.admission.leave(held)
    desk.admission.check()
    await desk.close()


async def test_an_error_of_dispatch_ends_that_request_alone() -> None:
    desk = Desk(9, 9)
    desk.refuses["bad"] = ZeroDivisionError()
    desk.room = 0
    desk.join("bad")
    desk.join("good")
    await ticks()
    desk.room = None
    assert desk.served == []
    desk.admission.look()
    await ticks()
    assert desk.served == ["good"]
    assert isinstance(desk.tasks[0].exception(), ZeroDivisionError)
    await desk.close()


@given(
    places=st.integers(1, 3),
    actions=st.lists(
        st.tuples(
            st.sampled_from(["join", "cancel", "release", "tick", "room", "full", "down", "ready"]), st.integers(0, 9)
        ),
        max_size=40,
    ),
)
def test_places_are_conserved(places: int, actions: list[tuple[str, int]]) -> None:
    async def main() -> None:
        desk = Desk(places, 1000, lane_wait_s=1e9)
        for action, n in actions:
            if action == "join":
                desk.join("r", n % 3, float(n))
            elif action == "cancel" and desk.tasks:
                desk.tasks[n % len(desk.tasks)].cancel()
            elif action == "release" and desk.holders:
                desk.release()
            elif action in ("room", "full"):
                desk.room = n if action == "room" else 0
                desk.admission.look()
            elif action == "down":
                desk.ready = False
            elif action == "ready":
                desk.become_ready()
            else:
                await ticks(n % 3)
            assert len(desk.holders) <= places
        await ticks()
        waiting = sum(not task.done() for task in desk.tasks)
        assert desk.admission.queued == waiting
        assert len(desk.holders) == places or not waiting or not desk.ready or desk.room == 0
        desk.room = None
        desk.become_ready()
        await ticks()
        while desk.holders:
            desk.release()
            await ticks()
        assert all(task.done() for task in desk.tasks)
        desk.admission.check(places + 1000)
        # Whoever got a place kept its load here; nobody else left any.
        served = len(desk.served)
        assert desk.load.of([LANE])[LANE] == LaneLoad(served, served, served)
        await desk.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
