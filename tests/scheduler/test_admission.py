"""Admission: who gets a place when, and that no place is ever lost."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.errors import Overloaded
from streamserve.scheduler.admission import Admission
from tests.fakes import ticks
from tests.virtual import run


def join(admission: Admission, served: list[str], name: str, priority: int = 0, arrived_s: float = 0.0) -> Callable:  # type: ignore[type-arg]
    """Start a task that takes a place and notes it; the result cancels it."""

    async def wait() -> None:
        await admission.acquire(priority, arrived_s)
        served.append(name)

    return asyncio.create_task(wait()).cancel


async def test_places_first_then_the_queue_by_priority_and_arrival() -> None:
    admission, served = Admission(1, 10), list[str]()
    join(admission, served, "first")
    await ticks()
    join(admission, served, "late", arrived_s=2.0)
    join(admission, served, "early", arrived_s=1.0)
    join(admission, served, "unimportant", priority=5)
    join(admission, served, "urgent", priority=-1, arrived_s=9.0)
    join(admission, served, "late too", arrived_s=2.0)
    await ticks()
    assert admission.queued == 5
    for _ in range(5):
        admission.release()
        await ticks()
    assert served == ["first", "urgent", "early", "late", "late too", "unimportant"]
    assert admission.queued == 0


async def test_a_full_queue_refuses_and_says_what_to_do() -> None:
    admission, served = Admission(1, 2), list[str]()
    for name in "abc":
        join(admission, served, name)
    await ticks()
    with pytest.raises(Overloaded, match=r"2 requests are waiting.*raise scheduler\.max_queued"):
        await admission.acquire(-9, 0.0)
    assert (served, admission.queued) == (["a"], 2)


async def test_check_counts_free_places_before_the_queue() -> None:
    admission, served = Admission(2, 3), list[str]()
    admission.check(5)
    with pytest.raises(Overloaded):
        admission.check(6)
    for name in "abc":
        join(admission, served, name)
    await ticks()
    admission.check(2)
    with pytest.raises(Overloaded):
        admission.check(3)


async def test_no_queue_at_all_still_serves() -> None:
    admission = Admission(1, 0)
    admission.check()
    await admission.acquire(0, 0.0)
    with pytest.raises(Overloaded):
        await admission.acquire(0, 0.0)
    admission.release()
    await admission.acquire(0, 0.0)


async def test_leaving_the_queue_makes_room_at_once() -> None:
    admission, served = Admission(1, 1), list[str]()
    await admission.acquire(0, 0.0)
    cancel = join(admission, served, "leaves")
    await ticks()
    cancel()
    await ticks()
    assert admission.queued == 0
    admission.check()


async def test_a_place_granted_to_a_request_cancelled_in_the_same_turn_goes_on() -> None:
    for grant_first in (True, False):
        admission, served = Admission(1, 10), list[str]()
        await admission.acquire(0, 0.0)
        cancel = join(admission, served, "cancelled")
        join(admission, served, "next")
        await ticks()
        for act in [admission.release, cancel] if grant_first else [cancel, admission.release]:
            act()
        await ticks()
        assert served == ["next"]
        assert admission.queued == 0


@given(
    places=st.integers(1, 3),
    actions=st.lists(st.tuples(st.sampled_from(["join", "cancel", "release", "tick"]), st.integers(0, 9)), max_size=40),
)
def test_places_are_conserved(places: int, actions: list[tuple[str, int]]) -> None:
    async def main() -> None:
        admission = Admission(places, 1000)
        tasks: list[asyncio.Task[None]] = []
        released = 0

        def held() -> int:
            return sum(task.done() and not task.cancelled() for task in tasks) - released

        for action, n in actions:
            if action == "join":
                tasks.append(asyncio.create_task(admission.acquire(n % 3, float(n))))
            elif action == "cancel" and tasks:
                tasks[n % len(tasks)].cancel()
            elif action == "release" and held():
                released += 1
                admission.release()
            else:
                await ticks(n % 3)
            assert held() <= places
        await ticks()
        waiting = sum(not task.done() for task in tasks)
        assert admission.queued == waiting
        assert held() == places or not waiting
        for _ in range(waiting):
            admission.release()
            released += 1
            await ticks()
        for _ in range(held()):
            admission.release()
        admission.check(places + 1000)

    run(main())
