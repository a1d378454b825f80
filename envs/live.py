"""Live: real lanes under an environment, on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from envs.session import MakeRequest, OnResult
from streamserve.build import assemble
from streamserve.config import Config
from streamserve.errors import LaneLost
from streamserve.protocols import Lane, Router
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.types import LaneState
from streamserve.workload.plan import Encode

T = TypeVar("T")

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Live:
    """Where an environment's lanes come from.

    lanes: brings lanes up, keeps them up and takes them down, as a context manager that is entered once per
    environment, in its event loop. make_request: requests that these lanes understand.
    """

    lanes: Callable[[], AbstractAsyncContextManager[Sequence[Lane]]]
    make_request: MakeRequest
    encode: Encode | None = None
    """Texts as these lanes' tokens; for prompt sets."""
    clean: Callable[[Sequence[Lane]], Awaitable[None]] | None = None
    """Called before every episode with idle lanes, to empty what would help the next one (prefix caches)."""
    start_limit_s: float = 600.0
    """How long bringing up all lanes may take."""
    idle_limit_s: float = 60.0
    """How long a reset waits for every lane to be ready and idle."""
    decision_limit_s: float = 120.0
    """How long a step waits for the next decision before it cuts the episode off."""


class LivePlant:
    """Lanes that are up already, behind a scheduler of their own for one episode."""

    def __init__(self, lanes: Sequence[Lane], config: Config, on_result: OnResult, router: Router | None) -> None:
        self._lanes = lanes
        # Its supervisor is never started: who brought the lanes up keeps them up.
        self.scheduler: StreamScheduler = assemble(config, lanes, on_result, router).scheduler

    async def start(self) -> None:
        """Nothing: the lanes are up."""

    async def lost(self) -> str:
        """Wait until any lane is lost."""
        tasks = {asyncio.create_task(lane.lost()): lane.id for lane in self._lanes}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            first = done.pop()
            return f"lane {tasks[first]} was lost: {first.result()}"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """End all requests."""
        await self.scheduler.close()


async def rested(lanes: Sequence[Lane], live: Live) -> None:
    """Wait until every lane is ready and idle. Raises `LaneLost` when one is not in time."""
    # Engines report after their steps and nobody waits on a report, so this looks again and again.
    try:
        async with asyncio.timeout(live.idle_limit_s):
            while _restless(lanes):
                await asyncio.sleep(POLL_S)
            if live.clean is not None:
                await live.clean(lanes)
    except TimeoutError as error:
        why = ", ".join(_restless(lanes)) or "cleaning them took too long"
        raise LaneLost(
            f"not ready and idle within {live.idle_limit_s:g} s: {why}; look into the lanes' logs"
        ) from error


def _restless(lanes: Sequence[Lane]) -> list[str]:
    why = []
    for lane in lanes:
        snapshot = lane.signals()
        if snapshot.state is not LaneState.READY:
            why.append(f"{lane.id} is {snapshot.state}")
        elif snapshot.running or snapshot.waiting or snapshot.prefill_queued_tokens:
            why.append(f"{lane.id} is busy")
    return why


class LiveLoop:
    """An event loop in a thread, and the lanes in it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="streamserve-live", daemon=True)
        self._stop: asyncio.Event | None = None
        self._failed: BaseException | None = None
        self._up: Future[Sequence[Lane]] = Future()
        self._thread.start()

    def lanes(self) -> Sequence[Lane]:
        """The lanes, once they are up. Raises what bringing them up raised, and `TimeoutError`."""
        return self._up.result(self._live.start_limit_s)

    def submit(self, main: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run it there."""
        return asyncio.run_coroutine_threadsafe(main, self.loop)

    def close(self) -> None:
        """Take the lanes down and end the thread; idempotent.

        Raises what taking them down raises, and `TimeoutError` when it takes too long.
        """
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._end)
            self._thread.join(self._live.start_limit_s)
            if self._thread.is_alive():
                raise TimeoutError("the lanes did not stop in time; look for engine processes that are left")
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _end(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        try:
            async with self._live.lanes() as lanes:
                self._up.set_result(lanes)
                await self._stop.wait()
        except BaseException as error:
            if self._up.done():
                self._failed = error
            else:
                self._up.set_exception(error)
