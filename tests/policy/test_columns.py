"""Columns: whatever goes in, what comes out is within its bounds and means the same everywhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.policy.columns import Column, Columns, Transform, amount, ratio, share

COLUMNS = Columns((share("flag"), amount("seconds", 10.0), ratio("ratio"), Column("signed", scale=0.5, low=-1.0)))


@given(st.lists(st.floats(), min_size=4, max_size=4))
def test_every_number_ends_within_its_bounds(raw: list[float]) -> None:
    seen = COLUMNS.apply(np.array([raw, raw]))
    assert seen.dtype == np.float32
    assert seen.shape == (2, 4)
    assert ((COLUMNS.low <= seen) & (seen <= COLUMNS.high)).all()


def test_each_transform_is_what_it_says() -> None:
    seen = COLUMNS.apply(np.array([0.25, 0.3, 2.0, -1.5]))
    assert seen == pytest.approx([0.25, math.log1p(3.0), math.log(2.0), -0.75])


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_transforms_keep_the_order(one: float, other: float) -> None:
    low, high = sorted((one, other))
    for column in (amount("a", 3.0), ratio("r"), Column("l", Transform.LINEAR, 0.1, 0.0, 5.0)):
        columns = Columns((column,))
        assert columns.apply(np.array([low]))[0] <= columns.apply(np.array([high]))[0]


def test_the_raw_numbers_are_left_alone() -> None:
    raw = np.array([0.5, np.nan, 2.0, 1.0])
    COLUMNS.apply(raw)
    assert raw[0] == 0.5
    assert np.isnan(raw[1])
