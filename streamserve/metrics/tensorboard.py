"""The serving process in TensorBoard: a window's scalars every few seconds, written by TensorBoard's own writer.

Neither torch nor TensorFlow is imported, and TensorBoard itself only when a log is asked for.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from streamserve.clock import now
from streamserve.errors import SetupError
from streamserve.metrics import scalars
from streamserve.metrics.policy import Fallback, PolicyTally
from streamserve.metrics.prometheus import SignalSource
from streamserve.metrics.scalars import Scalars
from streamserve.signals import LaneSignals
from streamserve.types import LaneId, Result

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

logger = logging.getLogger(__name__)

WINDOW_S = 10.0
QUEUED_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class _Look:
    """Counts at the end of a window."""

    at_s: float
    lanes: Mapping[LaneId, LaneSignals] = field(default_factory=dict)
    decisions: int = 0
    asked: int = 0
    agreed: int = 0
    shadow_gain_s: float = 0.0
    fallbacks: Mapping[Fallback, int] = field(default_factory=dict)


class TensorBoardLog:
    """Gathers results and writes their scalars at the end of each window; the step is the number of ended requests.

    Raises `SetupError` where TensorBoard is missing or the folder cannot be written. A disk that fails later is told
    once and ends the log; serving goes on.
    """

    def __init__(self, folder: Path, window_s: float = WINDOW_S) -> None:
        self._folder = folder
        self._writer: EventFileWriter | None = _writer(folder)
        self._window_s = window_s
        self._results: list[Result] = []
        self._ended = 0
        self._task: asyncio.Task[None] | None = None

    def learn(self, result: Result) -> None:
        """Count one request that ended."""
        if self._writer is not None:
            self._results.append(result)
            self._ended += 1

    def start(self, source: SignalSource, tally: PolicyTally) -> None:
        """Write from now on. To be called on the serving loop."""
        self._task = asyncio.create_task(self._run(source, tally))

    async def aclose(self) -> None:
        """Write what is left and close the file; idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                # Waits for the disk.
                await asyncio.to_thread(writer.close)
            except OSError as error:
                self._give_up(error)

    async def _run(self, source: SignalSource, tally: PolicyTally) -> None:
        before = _look(source, tally)
        try:
            while self._writer is not None:
                await asyncio.sleep(self._window_s)
                before = self._write(before, _look(source, tally))
        finally:
            self._write(before, _look(source, tally))

    def _write(self, before: _Look, after: _Look) -> _Look:
        results, self._results = self._results, []
        seconds = after.at_s - before.at_s
        if self._writer is None or seconds <= 0:
            return after
        counts = {reason: count - before.fallbacks.get(reason, 0) for reason, count in after.fallbacks.items()}
        shown = {
            **scalars.of_results(results, seconds),
            **scalars.of_routes(results, list(after.lanes)),
            **scalars.of_lanes(before.lanes, after.lanes),
            **scalars.of_policy(
                after.decisions - before.decisions,
                after.asked - before.asked,
                after.agreed - before.agreed,
                counts,
                after.shadow_gain_s - before.shadow_gain_s,
            ),
        }
        try:
            self._writer.add_event(_event(shown, self._ended))
        except OSError as error:
            self._writer = None
            self._give_up(error)
        return after

    def _give_up(self, error: OSError) -> None:
        logger.error("the TensorBoard log in %s ends here (%s); free the disk and restart", self._folder, error)


def _look(source: SignalSource, tally: PolicyTally) -> _Look:
    return _Look(
        now(),
        source.signals().lanes,
        tally.total,
        tally.asked,
        tally.agreed,
        tally.shadow_gain_s,
        tally.fallbacks.copy(),
    )


def _writer(folder: Path) -> "EventFileWriter":
    try:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise SetupError(
            f"--tensorboard needs TensorBoard, which is not installed ({error.name}): pip install 'streamserve[train]'"
        ) from error
    try:
        return EventFileWriter(str(folder), max_queue_size=QUEUED_EVENTS, flush_secs=int(WINDOW_S))
    except OSError as error:
        raise SetupError(f"cannot write to {folder}: {error.strerror}; name another with --tensorboard") from error


def _event(shown: Scalars, step: int) -> object:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in shown.items()]
    return Event(wall_time=datetime.now(UTC).timestamp(), step=step, summary=Summary(value=values))
