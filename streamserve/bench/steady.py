"""Watching the machine while it measures: shared ones are paused now and then, and a run with a pause is worth nothing.

The clock jumps over a pause. Two tickers tell it from a slow program: a thread of its own sees pauses of the machine
alone, a task sees those and whatever held up the event loop.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

TICK_S = 0.1
MAX_GAP_S = 2.0
MAX_REPEATS = 2


@dataclass(frozen=True, slots=True)
class Gaps:
    """The longest time by which a tick came late."""

    machine_s: float
    loop_s: float


class Ticker:
    """Notes the gaps from `async with` to its end."""

    def __init__(self) -> None:
        self._machine_s = 0.0
        self._loop_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch_machine, daemon=True)
        self._task: asyncio.Task[None] | None = None

    @property
    def gaps(self) -> Gaps:
        """So far."""
        return Gaps(self._machine_s, self._loop_s)

    async def __aenter__(self) -> "Ticker":
        self._thread.start()
        self._task = asyncio.create_task(self._watch_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def _watch_machine(self) -> None:
        over = False
        while not over:
            before_s = time.monotonic()
            over = self._over.wait(TICK_S)
            self._machine_s = max(self._machine_s, time.monotonic() - before_s - TICK_S)

    async def _watch_loop(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(TICK_S)
            self._loop_s = max(self._loop_s, time.monotonic() - before_s - TICK_S)


async def steady(
    measure: Callable[[], Awaitable[T]],
    note: Callable[[str], None],
    ticker: Callable[[], Ticker] = Ticker,
) -> tuple[T, Gaps]:
    """The measurement and its gaps; repeated, at most twice, when the machine paused for more than `MAX_GAP_S`.

    The last attempt is returned as it is: whoever reads `gaps` sees that it was not steady either.
    """
    for attempt in range(MAX_REPEATS + 1):
        async with ticker() as watch:
            outcome = await measure()
        if watch.gaps.machine_s <= MAX_GAP_S:
            break
        again = "again" if attempt < MAX_REPEATS else "kept all the same"
        note(f"the machine paused for {watch.gaps.machine_s:.1f} s: {again}")
    return outcome, watch.gaps
