"""Suspicion: lanes that are better avoided until they have shown that they work."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from streamserve.flowguard.pairs import Mask
from streamserve.flowguard.table import LaneVectors
from streamserve.types import Finish, LaneId, Result

LATE = 2.0
"""A step may take this many times as long as it should before its lane is late, as predictions may be off."""
RESTARTED_S = 5.0
"""For how long a restarted lane is doubted, unless a result clears it first."""
SLOW = 3.0
"""Actual over predicted latency that counts as slow, after the corrections of at most 2."""
SLOW_IN_A_ROW = 3
NOTICEABLE_S = 0.1
"""A TTFT that is off by less is nobody's fault."""


class Doubts(NamedTuple):
    """Who is under suspicion now."""

    suspects: Mask
    reasons: tuple[str | None, ...]
    probable: Mask
    """Suspects that only another request can clear; a silent lane with work clears itself when it speaks."""
    some: bool
    """Whether there are suspects."""


class Suspicion:
    """Doubts a lane whose last result was an error, that just restarted, is silent though it has work, or is slow.

    stale_s: silence of a lane with work that counts, beyond the time of its step. probe_share: of the requests that a
    suspect still gets.
    """

    def __init__(self, stale_s: float, probe_share: float) -> None:
        self._stale_s = stale_s
        self._every = max(1, round(1 / probe_share))
        self._since_probe = 0
        self._probes = 0
        self._restarted_at: dict[LaneId, float] = {}
        self._failed: set[LaneId] = set()
        self._slow: Counter[LaneId] = Counter()

    def observe(self, lanes: LaneVectors, at_s: float) -> Doubts:
        """The doubts after this look at the lanes."""
        silent: Mask = lanes.silent_s > self._stale_s + LATE * lanes.longest_step_s
        for lane in lanes.restarted:
            self._restarted_at[lane] = at_s
            self._failed.discard(lane)
            self._slow.pop(lane, None)
        if not (self._failed or self._slow or self._restarted_at or np.count_nonzero(silent)):
            return Doubts(silent, (None,) * len(lanes.lanes), silent, False)
        reasons = tuple(self._why(lane, bool(quiet), at_s) for lane, quiet in zip(lanes.lanes, silent, strict=True))
        suspects = np.array([reason is not None for reason in reasons], bool)
        return Doubts(suspects, reasons, suspects & ~silent, bool(suspects.any()))

    def probe(self, probable: Mask) -> int | None:
        """The place of the suspect that should get this request, if its turn has come."""
        if not probable.any():
            return None
        self._since_probe += 1
        if self._since_probe < self._every:
            return None
        self._since_probe = 0
        self._probes += 1
        places = np.flatnonzero(probable).tolist()
        return int(places[self._probes % len(places)])

    def learn(self, result: Result) -> None:
        """An error that is a lane's casts doubt on both lanes of the pair, a good result clears them."""
        decision = result.decision
        if decision is None or result.finish is Finish.ABORT:
            return
        lanes = {decision.prefill, decision.decode}
        if result.finish is Finish.ERROR:
            if result.lane_failed:
                self._failed |= lanes
            return
        slow = _slow_lanes(result)
        for lane in lanes:
            if lane in slow:
                self._slow[lane] += 1
            else:
                self._slow.pop(lane, None)
                self._failed.discard(lane)
                self._restarted_at.pop(lane, None)

    def _why(self, lane: LaneId, silent: bool, at_s: float) -> str | None:
        if silent:
            return "silent though it has work"
        if lane in self._failed:
            return "its last result was an error"
        if self._slow[lane] >= SLOW_IN_A_ROW:
            return "much slower than predicted"
        if lane in self._restarted_at:
            if at_s - self._restarted_at[lane] < RESTARTED_S:
                return "just restarted"
            del self._restarted_at[lane]
        return None


def _slow_lanes(result: Result) -> set[LaneId]:
    """Lanes whose part of the request took `SLOW` times as long as predicted; tells nothing about repeated attempts."""
    decision = result.decision
    if decision is None or decision.prediction is None or result.first_token_s is None or result.attempts != 1:
        return set()
    slow = set()
    ttft_s = result.first_token_s - decision.at_s
    if ttft_s > SLOW * decision.prediction.ttft_s and ttft_s - decision.prediction.ttft_s > NOTICEABLE_S:
        slow.add(decision.prefill)
    if result.tpot_s is not None and result.tpot_s > SLOW * decision.prediction.tpot_s:
        slow.add(decision.decode)
    return slow
