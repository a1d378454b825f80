"""Statistics of few seeds: interquartile means and bootstrap intervals (Agarwal et al. 2021, arXiv 2108.13264)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Statistic = Callable[[Values], Values]
"""Values (..., N) -> their statistic over the last axis."""

RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic and its bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def above_0(self) -> bool:
        return self.low > 0

    @property
    def below_0(self) -> bool:
        return self.high < 0


def mean(values: Values) -> Values:
    """The mean over the last axis."""
    result: Values = np.mean(values, axis=-1)
    return result


def iqm(values: Values) -> Values:
    """The mean of the middle half over the last axis: a quarter of the values is cut off at each end."""
    ordered = np.sort(values, axis=-1)
    count = ordered.shape[-1]
    places = np.arange(count)
    weights = np.clip(np.minimum(places + 1, 0.75 * count) - np.maximum(places, 0.25 * count), 0.0, None)
    result: Values = ordered @ weights / weights.sum()
    return result


def relative(gained: Values, base: Values, least: float) -> Values:
    """By pair, what was gained of what there was; the mean of these values is the ratio of both sums.

    A mean of the pairs' own ratios would be moved by noise alone, and by a single pair of a tiny base. The values are
    linearised, so that they vary as the ratio of the sums does (Cochran 1977, Sampling Techniques, chapter 6): pairs
    that all gain the same share have the same value, however unlike they are. least: of the mean base.
    """
    whole = max(float(base.mean()), least)
    share = gained.mean() / whole
    found: Values = share + (gained - share * (base + (whole - base.mean()))) / whole
    return found


def estimate(
    strata: Sequence[Sequence[float] | Values],
    rng: np.random.Generator,
    statistic: Statistic = mean,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The statistic of all values together, with its 95 % percentile interval.

    strata: values by scenario; each is resampled within itself. For a paired comparison these are differences of runs
    with the same seed.
    """
    groups = [np.asarray(each, np.float64) for each in strata if len(each)]
    drawn = [group[rng.integers(len(group), size=(resamples, len(group)))] for group in groups]
    low, high = np.quantile(statistic(np.concatenate(drawn, axis=1)), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(statistic(np.concatenate(groups))), float(low), float(high))
