"""Past: signals of a simulated lane as they were a while ago."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from streamserve.lanes.sim.meter import Report, Standing
from streamserve.signals import LaneSignals


class Reporting(Protocol):
    """An engine in the middle of its work."""

    @property
    def since_s(self) -> float: ...

    def report(self, at_s: float) -> Report: ...


class Past:
    """Snapshots of the last `staleness_s` seconds, one per stretch, and the newest one before."""

    def __init__(self, staleness_s: float) -> None:
        self._staleness_s = staleness_s
        self._snapshots: deque[LaneSignals] = deque()

    def add(self, snapshot: LaneSignals) -> None:
        """The newest snapshot."""
        self._snapshots.append(snapshot)
        self._forget(snapshot.at_s - self._staleness_s)

    def clear(self) -> None:
        """The engine is new."""
        self._snapshots.clear()

    def at(
        self,
        now_s: float,
        engine: Reporting,
        standing: Standing,
        before: Report,
        snapshot: Callable[[Report], LaneSignals],
    ) -> LaneSignals:
        """The signals as of that long ago; what the front knows by itself is never old.

        before: what was reported before this engine.
        """
        at_s = now_s - self._staleness_s
        self._forget(at_s)
        if engine.since_s <= at_s:
            return snapshot(engine.report(at_s))
        old = self._snapshots[0] if self._snapshots and self._snapshots[0].at_s <= at_s else snapshot(before)
        if (old.state, old.depth, old.error) != (standing.state, standing.depth, standing.error):
            return replace(old, state=standing.state, depth=standing.depth, error=standing.error)
        return old

    def _forget(self, at_s: float) -> None:
        while len(self._snapshots) > 1 and self._snapshots[1].at_s <= at_s:
            self._snapshots.popleft()
