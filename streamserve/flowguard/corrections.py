"""Corrections: how far each lane's latencies are off what the model of step costs says."""

import math

import numpy as np

from streamserve.flowguard.pairs import Floats
from streamserve.types import LaneId

RATE = 0.1
MOST = math.log(2.0)
PREFILL_MEMORY_S = 10.0
"""Time constant of the share of its time that a lane spends on prompts."""


class Corrections:
    """Per lane: factors on its prefill time and on its TPOT, both within [1/2, 2], and its rate of prefill work."""

    def __init__(self) -> None:
        self._lanes: tuple[LaneId, ...] = ()
        self._places: dict[LaneId, int] = {}
        self._logs: Floats = np.zeros((2, 0))
        self._learned: Floats = np.zeros((3, 0))
        self._rates_at_s = 0.0

    def of(self, lanes: tuple[LaneId, ...], at_s: float) -> Floats:
        """Factors on prefill time, factors on TPOT and seconds of prefill per second, by lane; good until the next."""
        if lanes != self._lanes:
            self._lay_out(lanes)
        if at_s > self._rates_at_s:
            self._learned[2] *= math.exp((self._rates_at_s - at_s) / PREFILL_MEMORY_S)
            self._rates_at_s = at_s
        return self._learned

    def prefills(self, place: int, seconds: float) -> None:
        """The lane at this place has just been given this much prefill work."""
        self._learned[2, place] += seconds / PREFILL_MEMORY_S

    def learn_prefill(self, lane: LaneId, ratio: float) -> None:
        """ratio: actual over uncorrected prediction."""
        self._learn(lane, 0, ratio)

    def learn_tpot(self, lane: LaneId, ratio: float) -> None:
        """ratio: actual over uncorrected prediction."""
        self._learn(lane, 1, ratio)

    def _learn(self, lane: LaneId, kind: int, ratio: float) -> None:
        place = self._places.get(lane)
        if place is None or not (math.isfinite(ratio) and ratio > 0):
            return
        off = min(MOST, max(-MOST, math.log(ratio)))
        self._logs[kind, place] += RATE * (off - self._logs[kind, place])
        self._learned[kind, place] = math.exp(self._logs[kind, place])

    def _lay_out(self, lanes: tuple[LaneId, ...]) -> None:
        unknown = (0.0, 0.0, 0.0)
        old = {lane: (*self._logs[:, place], self._learned[2, place]) for lane, place in self._places.items()}
        self._lanes, self._places = lanes, {lane: place for place, lane in enumerate(lanes)}
        known = np.array([old.get(lane, unknown) for lane in lanes]).T
        self._logs = known[:2].copy()
        self._learned = np.vstack([np.exp(self._logs), known[2]])
