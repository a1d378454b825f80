"""Session: one episode on the plant's side, from the first arrival to the last result."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol

from envs.reward import Ledger
from envs.talk import End
from streamserve.clock import now
from streamserve.errors import ServeError
from streamserve.protocols import TokenStream
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.types import Request, Result, Slo
from streamserve.workload.plan import Planned

OnResult = Callable[[Result], None]
MakeRequest = Callable[[str, int, Planned, float, Slo], Request]
"""Id, number, what was planned, arrival on the loop's clock, SLO -> the request."""
Tick = Callable[[StreamScheduler], Awaitable[None]]


class Plant(Protocol):
    """Lanes and what serves on them."""

    @property
    def scheduler(self) -> StreamScheduler: ...

    async def start(self) -> None: ...

    async def lost(self) -> str:
        """Wait for what ends the episode, in one line; what a scenario plans does not."""
        ...

    async def aclose(self) -> None: ...


class Session:
    """Sends requests when they are planned, and keeps the ledger.

    tick: called at the start and every `tick_s` until all requests have ended. limit_s: for the last results, after the
    last arrival.
    """

    def __init__(self, planned: Iterable[Planned], make: MakeRequest, ledger: Ledger, limit_s: float) -> None:
        self.results: list[Result] = []
        self._planned = planned
        self._make = make
        self._ledger = ledger
        self._limit_s = limit_s
        self._readers: list[asyncio.Task[None]] = []
        self._over = False
        self.sent = False
        """Whether the last request has come."""

    async def run(self, plant: Plant, tick: Tick | None, tick_s: float) -> End:
        """The whole episode; the plant is closed at its end."""
        reason: str | None = None
        try:
            await plant.start()
            self._ledger.settle(now())
            tasks = [asyncio.create_task(self._send(plant.scheduler)), asyncio.create_task(plant.lost())]
            if tick is not None:
                tasks.append(asyncio.create_task(_repeat(tick, plant.scheduler, tick_s)))
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                reason = next((done.result() for done in tasks if done.done()), None)
            finally:
                self._over = True
                end = End(now(), self._ledger.settle(now()), reason, self._ledger.expected_missed)
                for task in (*tasks, *self._readers):
                    task.cancel()
                await asyncio.gather(*tasks, *self._readers, return_exceptions=True)
        finally:
            await plant.aclose()
        return end

    def ended(self, result: Result) -> None:
        """To be told of every result."""
        if not self._over:
            self.results.append(result)
            self._ledger.ended(result)

    async def _send(self, scheduler: StreamScheduler) -> str | None:
        """Why it was cut off, None when all have ended."""
        begun_s = now()
        for number, planned in enumerate(self._planned):
            at_s = begun_s + planned.arrival_s
            await asyncio.sleep(max(0.0, at_s - now()))
            request = self._make(f"{begun_s:.3f}-{number}", number, planned, at_s, planned.slo)
            self._ledger.arrived(request, planned.slo)
            self._readers.append(asyncio.create_task(self._read(scheduler, request)))
        self.sent = True
        done, late = await asyncio.wait(self._readers, timeout=self._limit_s)
        for reader in done:
            reader.result()
        return f"{len(late)} requests had not ended {self._limit_s:g} s after the last arrival" if late else None

    async def _read(self, scheduler: StreamScheduler, request: Request) -> None:
        # A request that fails has its error in its result.
        with suppress(ServeError):
            await _first_token(scheduler.serve(request, lambda _decision: None), request.id, self._ledger)


async def _first_token(stream: TokenStream, request_id: str, ledger: Ledger) -> None:
    waiting = True
    async for chunk in stream:
        if waiting and chunk.token_ids:
            waiting = False
            ledger.first_token(request_id, chunk.at_s)


async def _repeat(tick: Tick, scheduler: StreamScheduler, tick_s: float) -> str | None:
    while True:
        await tick(scheduler)
        await asyncio.sleep(tick_s)
