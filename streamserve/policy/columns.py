"""Columns: named numbers of an observation, each with a fixed transform and bounds.

Nothing here is learned or estimated from data, so an observation means the same in training and in serving.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from streamserve.policy import kernels

Floats = kernels.Floats
Observed = kernels.Observed

TINY = kernels.TINY


class Transform(StrEnum):
    """What is done to a number before it is clipped to its bounds."""

    LINEAR = "linear"
    """scale * x"""
    LOG1P = "log1p"
    """log(1 + scale * x), of x from 0 on"""
    LOG = "log"
    """scale * log(x), of x above 0"""


KERNEL = {Transform.LINEAR: kernels.LINEAR, Transform.LOG1P: kernels.LOG1P, Transform.LOG: kernels.LOG}


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
        kinds = np.array([KERNEL[column.transform] for column in columns], np.int64)
        factors = np.array([column.scale for column in columns], np.float64)
        self.scales: kernels.Scales = (kinds, factors, self.low.astype(np.float64), self.high.astype(np.float64))

    def __len__(self) -> int:
        return len(self.columns)

    def apply(self, raw: Floats) -> Observed:
        """The raw numbers, (C,) or (N, C), as they are observed. What is not a number counts as 0."""
        kernels.prepare()
        seen: Observed = np.empty(raw.shape, np.float32)
        for numbers, into in zip(np.atleast_2d(raw), np.atleast_2d(seen), strict=True):
            kernels.transform(numbers, self.scales, into)
        return seen

    def schema(self) -> list[dict[str, Any]]:
        """Every column in plain values."""
        return [asdict(column) for column in self.columns]
