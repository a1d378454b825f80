"""Virtual time: an event loop that jumps to its next timer.

The simulator is the real scheduler on this loop; tests of minutes take microseconds on it and never hang.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from heapq import heappop
from selectors import DefaultSelector, SelectorKey
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Every task waits for something that nothing will bring about."""


JUMPS_PER_LOOK = 64
"""Between two looks at real files and sockets, of which a simulation has none; each look is a system call."""
MOST_CANCELLED = 50
"""Cancelled timers up to which asyncio never sorts its timers anew."""
LONGEST_S = 86_400.0
"""Longest jump, as asyncio's longest wait."""


class _JumpingSelector(DefaultSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            # Something is ready to run; whatever else there is can wait until all tasks do.
            return []
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock("all tasks wait and no timer is set")
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while tasks run and jumps when all of them wait.

    Everything happens in the order that asyncio's own loop has. Only its turn is written anew, without what real files,
    real time and debugging need: that was half of it, and a simulation is a hundred thousand turns.
    """

    _scheduled: list[Any]
    _ready: deque[Any]
    _stopping: bool
    _timer_cancelled_count: int
    _clock_resolution: float
    _debug: bool

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        self._jumps = 0
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s

    def _run_once(self) -> None:
        scheduled, ready, clock = self._scheduled, self._ready, self._clock
        if self._timer_cancelled_count > MOST_CANCELLED or self._stopping or self._debug:
            self._as_usual()
            return
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heappop(scheduled)._scheduled = False
        if not ready:
            self._jumps += 1
            if not scheduled or not self._jumps % JUMPS_PER_LOOK:
                self._as_usual()
                return
            clock.now_s += min(max(0.0, scheduled[0]._when - clock.now_s), LONGEST_S)
        due_s = clock.now_s + self._clock_resolution
        while scheduled and scheduled[0]._when < due_s:
            timer = heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        # What these make ready has its turn next time.
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _as_usual(self) -> None:
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time. Raises `Deadlock`."""
    result: list[T] = []

    async def keep() -> None:
        # Not the task's own result: at its end the runner looks up the signal handler, and the standard library's enum
        # of handlers then writes out the task with all that it returned, for an error message that nobody sees.
        result.append(await main)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(keep())
    return result[0]
