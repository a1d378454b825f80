"""Admission: how many requests are on the lanes at once, and who is next."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

from streamserve.clock import now
from streamserve.config import SchedulerConfig
from streamserve.errors import NoLane, Overloaded, Undecided
from streamserve.scheduler.line import Line, Waiting
from streamserve.scheduler.load import Dispatched
from streamserve.scheduler.record import Record


class Admission:
    """Places on the lanes, and the bounded line in front of them.

    The first in line is dispatched as soon as there is a place and a lane takes it; nobody behind overtakes it
    meanwhile. One exception: where lanes are ready and yet the router finds none for this very request, it lets others
    pass. Whoever holds a place already (its lane died) is asked first and needs no other.

    dispatch: chooses lanes and counts their load, now; None while they should not be given more. Raises `NoLane` when
    there is none, then the request waits up to `lane_wait_s`; any other error ends the request.
    any_ready: whether a lane is ready. lane_ready: waits until one becomes ready.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        dispatch: Callable[[Record], Dispatched | None],
        any_ready: Callable[[], bool],
        lane_ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._dispatch = dispatch
        self._any_ready = any_ready
        self._lane_ready = lane_ready
        self._free = config.max_dispatched
        self._line = Line()
        self._stalled: tuple[float, NoLane] | None = None
        """Since when no lane is ready for anybody."""
        self._alarm: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def queued(self) -> int:
        return self._line.queued

    def check(self, n: int = 1) -> None:
        """Raises `Overloaded` if not all of `n` more requests would find a place or room to wait."""
        waiting = self._line.queued
        # A place helps only who need not wait behind others for it.
        at_once = 0 if waiting else self._free
        if waiting + max(0, n - at_once) > self._config.max_queued:
            raise self._overloaded(waiting)

    async def enter(self, record: Record) -> Dispatched:
        """Wait to be dispatched; `leave` gives the place back.

        Raises `Overloaded`, `NoLane`, and what `dispatch` raises.
        """
        granted: asyncio.Future[Dispatched] = asyncio.get_running_loop().create_future()
        waiting = self._line.join(record, now(), granted)
        self.look()
        if not granted.done():
            if not record.placed and self._line.queued > self._config.max_queued:
                self._line.leave(waiting)
                raise self._overloaded(self._line.queued)
            self._watch_lanes()
        try:
            return await granted
        except asyncio.CancelledError:
            self._line.leave(waiting)
            if not granted.cancelled() and granted.exception() is None:
                granted.result().finished()
            raise

    def leave(self, record: Record) -> None:
        """Give back the request's place, if it has one."""
        if record.placed:
            record.placed = False
            self._free += 1
            self.look()

    def look(self) -> None:
        """Dispatch whoever can be now; to be called whenever a lane may have got room."""
        aside: list[Waiting] = []
        while not self._closed and (first := self._line.first()) is not None:
            if not first.record.placed and not self._free:
                break
            try:
                dispatched = self._dispatch(first.record)
            except NoLane as error:
                if not self._any_ready():
                    self._stalled = self._stalled or (now(), error)
                    self._arm(now() + self._config.lane_wait_s)
                    break
                first.refused = first.refused or (now(), error)
                self._arm(now() + self._config.lane_wait_s)
                self._line.pop()
                aside.append(first)
                continue
            except Undecided:
                if self._any_ready():
                    # Whoever is asked has lanes to choose from, so this is no wait for a lane any more.
                    self._stalled = first.refused = None
                break
            except Exception as error:
                self._line.pop()
                first.granted.set_exception(error)
                continue
            self._stalled = first.refused = None
            if dispatched is None:
                break
            self._line.pop()
            if not first.record.placed:
                first.record.placed = True
                self._free -= 1
            first.granted.set_result(dispatched)
        for waiting in aside:
            self._line.put_back(waiting)

    def stop(self) -> None:
        """Dispatch nobody any more."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._watch is not None:
            self._watch.cancel()

    async def stopped(self) -> None:
        """Wait until nothing of `stop` is left to do."""
        if self._watch is not None:
            await asyncio.wait((self._watch,))

    def _overloaded(self, waiting: int) -> Overloaded:
        return Overloaded(
            f"the server is full: {waiting} requests are waiting and at most {self._config.max_queued} may;"
            " retry later or raise scheduler.max_queued"
        )

    def _watch_lanes(self) -> None:
        # One task for all that wait, from the first on; in a context of its own, or it would keep that request's.
        if self._watch is None and not self._closed:
            self._watch = asyncio.create_task(self._look_when_ready(), context=Context())

    async def _look_when_ready(self) -> None:
        while True:
            # Nothing suspends between this look and the wait, so no lane becomes ready unnoticed.
            self.look()
            await self._lane_ready()

    def _arm(self, at_s: float) -> None:
        # An alarm that is set already is earlier: the wait is the same for all.
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(at_s, self._end_waits, context=Context())

    def _end_waits(self) -> None:
        """Refuse everybody whose wait for a lane was too long."""
        self.look()
        later = []
        for waiting in list(self._line):
            since = self._without_lane(waiting)
            if since is None or waiting.granted.done():
                continue
            since_s, error = since
            if since_s + self._config.lane_wait_s <= now():
                self._line.leave(waiting)
                waited = NoLane(f"waited {self._config.lane_wait_s:g} s for a lane: {error}")
                waited.__cause__ = error
                waiting.granted.set_exception(waited)
            else:
                later.append(since_s + self._config.lane_wait_s)
        self._alarm = None
        if later:
            self._arm(min(later))

    def _without_lane(self, waiting: Waiting) -> tuple[float, NoLane] | None:
        if waiting.refused is not None:
            return waiting.refused
        if self._stalled is None:
            return None
        since_s, error = self._stalled
        return max(since_s, waiting.since_s), error
