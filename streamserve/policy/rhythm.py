"""Rhythm: how fast requests come, told from those that were decided."""

import math
from dataclasses import dataclass

FAST_S, SLOW_S = 5.0, 60.0
"""Time constants of the two averages."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The pace at one decision."""

    fast_per_s: float = 0.0
    slow_per_s: float = 0.0
    gap_s: float = 0.0
    """Since the decision before, 0 at the first."""


class Rhythm:
    """Exponentially weighted rates of decisions; whoever decides keeps one, in training as in serving."""

    def __init__(self) -> None:
        self._beat = Beat()
        self._last_s: float | None = None

    def at(self, at_s: float) -> Beat:
        """The pace now, with no decision."""
        if self._last_s is None:
            return self._beat
        gap_s = max(0.0, at_s - self._last_s)
        fast, slow = math.exp(-gap_s / FAST_S), math.exp(-gap_s / SLOW_S)
        return Beat(self._beat.fast_per_s * fast, self._beat.slow_per_s * slow, gap_s)

    def beat(self, at_s: float) -> Beat:
        """Another decision is due now."""
        before = self.at(at_s)
        self._beat = Beat(before.fast_per_s + 1 / FAST_S, before.slow_per_s + 1 / SLOW_S, before.gap_s)
        self._last_s = at_s if self._last_s is None else max(at_s, self._last_s)
        return self._beat
