"""The supervisor: brings lanes up, restarts the ones that die, takes them down."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from streamserve.clock import now
from streamserve.protocols import Lane, Progress
from streamserve.signals import LaneSignals
from streamserve.stream import settle
from streamserve.types import LaneId, LaneState

logger = logging.getLogger(__name__)

Health = Literal["ready", "degraded", "not ready"]

STEADY_S = 60.0
"""A lane that was ready for this long starts over at the first pause when it dies."""


def health(signals: Mapping[LaneId, LaneSignals]) -> Health:
    """Whether all lanes are ready, some, or none."""
    ready = sum(snapshot.state is LaneState.READY for snapshot in signals.values())
    if not ready:
        return "not ready"
    return "ready" if ready == len(signals) else "degraded"


class Supervisor:
    """The lives of the lanes.

    restart_backoff_s: the pause before each successive restart of a lane; the last one repeats.
    """

    def __init__(self, lanes: Sequence[Lane], restart_backoff_s: Sequence[float]) -> None:
        self._lanes = lanes
        self._restart_backoff_s = restart_backoff_s
        self._watches: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()

    async def start(self, progress: Progress) -> None:
        """Bring all lanes up at once, then keep them up.

        Raises `LaneStartError` of the first lane that fails, after the others were stopped.
        """
        starts = [asyncio.create_task(self._start(lane, progress)) for lane in self._lanes]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            await settle(self._stop(starts))
            raise
        self._watches = [asyncio.create_task(self._watch(lane, progress)) for lane in self._lanes]

    async def changed(self) -> None:
        """Wait until a lane becomes ready, from now on."""
        await self._ready.wait()

    async def aclose(self) -> None:
        """Stop watching, then close all lanes at once; idempotent."""
        await self._stop(self._watches)

    async def _start(self, lane: Lane, progress: Progress) -> None:
        await lane.start(progress)
        self._ready.set()
        self._ready = asyncio.Event()

    async def _stop(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        closed = await asyncio.gather(*(lane.aclose() for lane in self._lanes), return_exceptions=True)
        if failures := [outcome for outcome in closed if outcome is not None]:
            raise BaseExceptionGroup("lanes failed to close; check for engine processes that are left", failures)

    async def _watch(self, lane: Lane, progress: Progress) -> None:
        restarts = 0
        while True:
            ready_at_s = now()
            reason: str | None = await lane.lost()
            if now() - ready_at_s >= STEADY_S:
                restarts = 0
            while reason is not None:
                pause_s = self._restart_backoff_s[min(restarts, len(self._restart_backoff_s) - 1)]
                restarts += 1
                logger.warning("lane %s is lost (%s); restarting it in %g s", lane.id, reason, pause_s)
                await asyncio.sleep(pause_s)
                reason = await self._restart(lane, progress)
            logger.info("lane %s is ready again", lane.id)

    async def _restart(self, lane: Lane, progress: Progress) -> str | None:
        """None when the lane is ready again, otherwise why it is not."""
        try:
            await self._start(lane, progress)
        except Exception as error:
            # Whatever it is, it counts as another loss: if the watch ended here, the lane would stay down for good.
            return f"{type(error).__name__}: {error}"
        return None
