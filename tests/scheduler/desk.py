"""Desk: an admission in front of one lane that tests switch on and off."""

import asyncio
from collections.abc import Callable
from typing import Any

from streamserve.config import SchedulerConfig
from streamserve.errors import NoLane
from streamserve.scheduler.admission import Admission
from streamserve.scheduler.load import Dispatched, Load
from streamserve.scheduler.record import Record
from tests.fakes import make_request, pair


class Desk:
    """An admission in front of one lane; `room` = how many more requests the lane takes, None = any number.

    `refuses`: what dispatching raises, by the request's id. `ready`: whether the lane is; `unready`: what
    dispatching raises while it is not.
    """

    def __init__(self, max_dispatched: int, max_queued: int, **config: Any) -> None:
        self.load = Load()
        self.room: int | None = None
        self.ready = True
        self.unready: Exception = NoLane("no lane is ready")
        self.refuses: dict[str, Exception] = {}
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[Record]] = []
        self.change = asyncio.Event()
        self.admission = Admission(
            SchedulerConfig(max_dispatched=max_dispatched, max_queued=max_queued, **config),
            self.dispatch,
            lambda: self.ready,
            self.lane_ready,
        )

    def dispatch(self, record: Record) -> Dispatched | None:
        if not self.ready:
            raise self.unready
        if record.request.id in self.refuses:
            raise self.refuses[record.request.id]
        if self.room == 0:
            return None
        if self.room is not None:
            self.room -= 1
        return Dispatched(self.load, pair("a", "a"), 1)

    async def lane_ready(self) -> None:
        await self.change.wait()

    def become_ready(self) -> None:
        self.ready = True
        self.change.set()
        self.change = asyncio.Event()

    async def enter(self, record: Record) -> Record:
        """Take a place as the scheduler does, and give everything back if that fails."""
        try:
            await self.admission.enter(record)
        except BaseException:
            self.admission.leave(record)
            raise
        self.served.append(record.request.id)
        return record

    def join(self, name: str, priority: int = 0, due_s: float = 0.0) -> Callable[[], bool]:
        """Start a task that takes a place; the result cancels it."""
        task = asyncio.create_task(self.enter(Record(make_request(name, priority=priority), due_s)))
        self.tasks.append(task)
        return task.cancel

    def release(self) -> None:
        """Give back the place of somebody who has one."""
        self.admission.leave(self.holders[0])

    @property
    def holders(self) -> list[Record]:
        done = [task for task in self.tasks if task.done() and not task.cancelled() and task.exception() is None]
        return [task.result() for task in done if task.result().placed]

    async def close(self) -> None:
        self.admission.stop()
        await self.admission.stopped()
