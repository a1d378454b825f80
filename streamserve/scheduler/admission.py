"""Admission: how many requests are on the lanes at once, and who is next."""

import asyncio
from bisect import insort
from itertools import count

from streamserve.errors import Overloaded


class Admission:
    """Places on the lanes, and the bounded queue in front of them.

    max_dispatched: requests that hold a place at once. max_queued: requests that may wait for one.
    """

    def __init__(self, max_dispatched: int, max_queued: int) -> None:
        self._free = max_dispatched
        self._max_queued = max_queued
        self._arrivals = count()
        self._queue: list[tuple[int, float, int, asyncio.Future[None]]] = []

    @property
    def queued(self) -> int:
        return len(self._queue)

    def check(self, n: int = 1) -> None:
        """Raises `Overloaded` if not all of `n` more requests would find a place or room to wait."""
        if len(self._queue) + max(0, n - self._free) > self._max_queued:
            raise Overloaded(
                f"the server is full: {len(self._queue)} requests are waiting and at most {self._max_queued} may;"
                " retry later or raise scheduler.max_queued"
            )

    async def acquire(self, priority: int, arrived_s: float) -> None:
        """Take a place, waiting behind smaller priorities and, among equals, earlier arrivals. Raises `Overloaded`."""
        if self._free:
            self._free -= 1
            return
        self.check()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (priority, arrived_s, next(self._arrivals), place)
        insort(self._queue, entry)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self.release()
            elif entry in self._queue:
                self._queue.remove(entry)
            raise

    def release(self) -> None:
        """Give a place back: to the next in the queue, if any."""
        while self._queue:
            *_, place = self._queue.pop(0)
            # A request that was cancelled in this turn of the loop has not left the queue yet.
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
