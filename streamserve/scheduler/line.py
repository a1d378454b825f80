"""The line: requests that wait to be dispatched, first in order first."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count

from streamserve.errors import NoLane
from streamserve.scheduler.load import Dispatched
from streamserve.scheduler.record import Record

Rank = tuple[bool, int, float, int]
"""Whether it is new, its priority, when it is due, its turn among equals; the smallest is first."""


@dataclass(order=True, slots=True)
class Waiting:
    """One request in the line."""

    rank: Rank
    record: Record = field(compare=False)
    since_s: float = field(compare=False)
    granted: asyncio.Future[Dispatched] = field(compare=False)
    in_line: bool = field(default=True, compare=False)
    refused: tuple[float, NoLane] | None = field(default=None, compare=False)
    """Since when the router finds no lane for this very request, though some are ready."""


class Line:
    """A heap in which those that left stay until they come up or are the majority.

    A request that holds a place already comes before all new ones: a client has seen its output or waited for it.
    """

    def __init__(self) -> None:
        self._heap: list[Waiting] = []
        self._turns = count()
        self._gone = 0
        self.queued = 0
        """New requests in the line, those that were dispatched before not counted."""

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for waiting in self._heap if waiting.in_line)

    def join(self, record: Record, since_s: float, granted: asyncio.Future[Dispatched]) -> Waiting:
        """Put a request in its place."""
        rank = (not record.placed, record.request.priority, record.due_s, next(self._turns))
        waiting = Waiting(rank, record, since_s, granted)
        self.put_back(waiting)
        return waiting

    def put_back(self, waiting: Waiting) -> None:
        """Put one that was taken out where it was."""
        waiting.in_line = True
        self.queued += waiting.rank[0]
        heappush(self._heap, waiting)

    def first(self) -> Waiting | None:
        """The first that still waits, left where it is."""
        while self._heap:
            first = self._heap[0]
            # Whoever was cancelled in this turn of the loop has not left the line yet.
            if first.in_line and not first.granted.done():
                return first
            self._take(first)
            heappop(self._heap)
            self._gone -= 1
        return None

    def pop(self) -> None:
        """Take out the one that `first` returned."""
        self._take(self._heap[0])
        heappop(self._heap)
        self._gone -= 1

    def leave(self, waiting: Waiting) -> None:
        """Take out a request, wherever it stands; does nothing when it is out."""
        self._take(waiting)
        if self._gone > len(self._heap) // 2:
            self._heap = list(self)
            heapify(self._heap)
            self._gone = 0

    def _take(self, waiting: Waiting) -> None:
        if waiting.in_line:
            waiting.in_line = False
            self.queued -= waiting.rank[0]
            self._gone += 1
