"""Medians with their spread, and ratios taken pair by pair within one run."""

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
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), low, high, len(values))


def ratio(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Ratios of measurements that were taken in turn: a machine that slows down slows both of a pair."""
    return spread([value / against for value, against in zip(values, base, strict=True)])
