"""Virtual time: everything happens when and in the order that asyncio has it, and nothing waits for ever."""

import asyncio
import socket
from collections.abc import Iterator
from random import Random

import pytest

from streamserve import virtual
from streamserve.virtual import MOST_CANCELLED, Deadlock, VirtualLoop


class PlainLoop(VirtualLoop):
    """The same clock under asyncio's own turn."""

    def _run_once(self) -> None:
        self._as_usual()


@pytest.fixture(params=[VirtualLoop, PlainLoop])
def loop(request: pytest.FixtureRequest) -> Iterator[VirtualLoop]:
    made: VirtualLoop = request.param()
    yield made
    made.close()


def happened(loop: VirtualLoop, seed: int, cancels: float) -> list[tuple[float, int]]:
    """Timers that set and cancel others, many of them at the same instants; when each went off."""
    random = Random(seed)
    seen: list[tuple[float, int]] = []
    timers: list[asyncio.Handle] = []

    def set_some() -> None:
        for _ in range(random.choice([0, 1, 1, 2])):
            number = len(timers)
            if number > 600:
                return
            delay_s = random.choice([0.0, 0.1, 0.1, 0.25, random.random(), 1e-10])
            if random.random() < 0.2:
                timers.append(loop.call_soon(goes_off, number))
            else:
                timers.append(loop.call_later(delay_s, goes_off, number))
        while random.random() < cancels:
            random.choice(timers).cancel()

    def goes_off(number: int) -> None:
        seen.append((loop.time(), number))
        set_some()

    for _ in range(120):
        loop.call_at(random.choice([0.5, 1.0]), set_some)
    loop.call_later(30.0, loop.stop)
    loop.run_forever()
    return seen


@pytest.mark.parametrize("cancels", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_events_is_that_of_asyncio(seed: int, cancels: float) -> None:
    seen = []
    for kind in (VirtualLoop, PlainLoop):
        loop = kind()
        seen.append(happened(loop, seed, cancels))
        loop.close()
    assert len(seen[0]) > 100
    assert seen[0] == seen[1]


def test_many_cancelled_timers_are_thrown_out(loop: VirtualLoop) -> None:
    for _ in range(4 * MOST_CANCELLED):
        loop.call_later(1000.0, lambda: None).cancel()
    loop.call_later(1.0, loop.stop)
    loop.run_forever()
    assert loop.time() == 1.0
    assert len(loop._scheduled) <= MOST_CANCELLED


def test_time_jumps(loop: VirtualLoop) -> None:
    loop.run_until_complete(asyncio.sleep(10_000_000.0))
    assert loop.time() == 10_000_000.0


def test_a_wait_for_nothing_is_a_deadlock() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="all tasks wait"):
        virtual.run(wait())


def test_real_sockets_are_looked_at_now_and_then() -> None:
    async def read() -> bytes:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"real")
            waiting = asyncio.create_task(asyncio.get_running_loop().sock_recv(ours, 8))
            while not waiting.done():
                await asyncio.sleep(1.0)
            return await waiting

    assert virtual.run(read()) == b"real"


def test_a_callback_that_raises_ends_nothing(loop: VirtualLoop) -> None:
    told: list[str] = []
    loop.set_exception_handler(lambda _loop, context: told.append(str(context["exception"])))

    def fail() -> None:
        raise ValueError("no")

    loop.call_later(1.0, fail)
    loop.call_later(2.0, loop.stop)
    loop.run_forever()
    assert told == ["no"]
