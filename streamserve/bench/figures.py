"""Medians with their spread, and ratios taken pair by pair within one run."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeated measurements and the quartiles around it."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} .. {self.high:.3g}, n={self.n})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of a single value it is all three."""
    return Spread(statistics.median(values), quantile(values, 0.25), quantile(values, 0.75), len(values))


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the two values next to it, as numpy takes it, and infinite where the higher of them is."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below, weight = int(place), place % 1
    if not weight:
        return ordered[below]
    above = ordered[below + 1]
    return above if math.isinf(above) else ordered[below] + weight * (above - ordered[below])


def ratio(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Ratios of measurements that were taken in turn: a machine that slows down slows both of a pair."""
    return spread([value / against for value, against in zip(values, base, strict=True)])
