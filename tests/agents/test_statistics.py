"""Intervals cover what they should, and the interquartile mean is what its name says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agents.statistics import estimate, iqm, mean

NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)


def test_an_interquartile_mean_leaves_out_the_outer_quarters() -> None:
    assert float(iqm(np.array([-1e9, 1.0, 2.0, 1e9]))) == 1.5
    # Of five values, one quarter is one and a quarter values.
    assert float(iqm(np.array([0.0, 1.0, 2.0, 3.0, 100.0]))) == (0.75 * 1 + 2 + 0.75 * 3) / 2.5


@given(NUMBERS)
def test_an_interquartile_mean_lies_within_the_values(values: list[float]) -> None:
    assert min(values) - 1e-6 <= float(iqm(np.array(values))) <= max(values) + 1e-6


@given(st.lists(NUMBERS, min_size=1, max_size=4), st.integers(0, 10))
def test_the_estimate_lies_within_its_strata(strata: list[list[float]], seed: int) -> None:
    got = estimate(strata, np.random.default_rng(seed), resamples=200)
    flat = [value for stratum in strata for value in stratum]
    assert min(flat) - 1e-6 <= got.low <= got.high <= max(flat) + 1e-6
    assert np.isclose(got.value, np.mean(flat))


def test_intervals_of_95_percent_cover_about_95_percent() -> None:
    rng = np.random.default_rng(0)
    trials = 300
    covered = 0
    for _ in range(trials):
        got = estimate([rng.normal(1.0, 2.0, 30)], rng, mean, resamples=500)
        covered += got.low <= 1.0 <= got.high
    assert 0.89 <= covered / trials <= 0.98


def test_strata_are_resampled_within_themselves() -> None:
    # Between them they differ by 100, within them not at all: nothing is uncertain.
    got = estimate([[0.0] * 5, [100.0] * 5], np.random.default_rng(0))
    assert (got.low, got.value, got.high) == (50.0, 50.0, 50.0)


def test_a_difference_that_is_always_above_0_is_told() -> None:
    got = estimate([[0.5, 1.0, 0.7, 0.6]], np.random.default_rng(0), iqm)
    assert got.above_0 and not got.below_0
