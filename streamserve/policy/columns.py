"""Columns: named numbers of an observation, each with a fixed transform and bounds.

Nothing here is learned or estimated from data, so an observation means the same in training and in serving.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Observed = NDArray[np.float32]

TINY = 1e-9
HUGE = 1e30


class Transform(StrEnum):
    """What is done to a number before it is clipped to its bounds."""

    LINEAR = "linear"
    """scale * x"""
    LOG1P = "log1p"
    """log(1 + scale * x), of x from 0 on"""
    LOG = "log"
    """scale * log(x), of x above 0"""


@dataclass(frozen=True, slots=True)
class Column:
    """One number of an observation."""

    name: str
    transform: Transform = Transform.LINEAR
    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0


def share(name: str) -> Column:
    """A number from 0 to 1, or a flag."""
    return Column(name)


def amount(name: str, scale: float = 1.0) -> Column:
    """A number from 0 on that spans magnitudes."""
    return Column(name, Transform.LOG1P, scale, 0.0, 10.0)


def ratio(name: str) -> Column:
    """A number above 0 beside another one, 0 where they are equal."""
    return Column(name, Transform.LOG, 1.0, -5.0, 5.0)


class Columns:
    """Several columns, transformed together."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self.places = {column.name: place for place, column in enumerate(columns)}
        self.low: Observed = np.array([column.low for column in columns], np.float32)
        self.high: Observed = np.array([column.high for column in columns], np.float32)
        self._scale = np.array([column.scale for column in columns])
        self._log1p = self._of(Transform.LOG1P)
        self._log = self._of(Transform.LOG)
        self._log_scale = self._scale[self._log]
        self._scale[self._log] = 1.0

    def __len__(self) -> int:
        return len(self.columns)

    def apply(self, raw: Floats) -> Observed:
        """The raw numbers, columns last, as they are observed. What is not a number counts as 0."""
        values = np.minimum(np.maximum(raw, -HUGE), HUGE) * self._scale
        # One test for all of them: whatever is not a number makes the sum so.
        if np.isnan(values.sum()):
            values = np.nan_to_num(values, nan=0.0)
        values[..., self._log1p] = np.log1p(np.maximum(values[..., self._log1p], 0.0))
        values[..., self._log] = self._log_scale * np.log(np.maximum(values[..., self._log], TINY))
        clipped: Observed = np.minimum(np.maximum(values, self.low), self.high).astype(np.float32)
        return clipped

    def schema(self) -> list[dict[str, Any]]:
        """Every column in plain values."""
        return [asdict(column) for column in self.columns]

    def _of(self, transform: Transform) -> NDArray[np.int64]:
        return np.array([place for place, each in enumerate(self.columns) if each.transform is transform], np.int64)
