"""Averages that forget: each sample's weight falls with the time since, so that a rare sample counts as it should."""

import math

from streamserve.signals import Averages

FAST_S = 10.0
SLOW_S = 120.0


class DecayedMean:
    """The mean of samples whose weights fall by the factor e in every `constant_s` seconds.

    Unlike a step-by-step moving average it treats samples of one instant alike, and after a long pause the next sample
    is nearly all of it. Instants that go back count as now.
    """

    def __init__(self, constant_s: float) -> None:
        self._constant_s = constant_s
        self._at_s = -math.inf
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float, at_s: float, weight: float = 1.0) -> None:
        """Take in a sample; `weight` above 0."""
        kept = 1.0
        if at_s > self._at_s:
            kept = math.exp((self._at_s - at_s) / self._constant_s)
            self._at_s = at_s
        self._sum = self._sum * kept + value * weight
        self._weight = self._weight * kept + weight

    @property
    def value(self) -> float | None:
        """None before the first sample."""
        return self._sum / self._weight if self._weight else None


class MovingLatency:
    """A latency's averages at the two time constants that signals have: 10 s and 120 s."""

    def __init__(self) -> None:
        self._fast = DecayedMean(FAST_S)
        self._slow = DecayedMean(SLOW_S)
        self.averages = Averages()
        """As of the last sample; the same object until the next one."""
        self.samples = 0

    def add(self, latency_s: float, at_s: float) -> None:
        """Take in one measurement, made at this instant."""
        self._fast.add(latency_s, at_s)
        self._slow.add(latency_s, at_s)
        self.averages = Averages(self._fast.value, self._slow.value)
        self.samples += 1
