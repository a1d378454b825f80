"""Virtual time: an event loop that jumps to its next timer.

The simulator is the real scheduler on this loop; tests of minutes take microseconds on it and never hang.
"""

import asyncio
from collections.abc import Coroutine
from selectors import DefaultSelector, SelectorKey
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Every task waits for something that nothing will bring about."""


JUMPS_PER_LOOK = 64
"""Between two looks at real files and sockets, of which a simulation has none; each look is a system call."""


class _JumpingSelector(DefaultSelector):
    now_s = 0.0
    _jumps = 0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            # Something is ready to run; whatever else there is can wait until all tasks do.
            return []
        self._jumps += 1
        if timeout is not None and self._jumps % JUMPS_PER_LOOK:
            self.now_s += timeout
            return []
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock("all tasks wait and no timer is set")
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while tasks run and jumps when all of them wait."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


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
