"""Averages that forget."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamserve.averages import DecayedMean, MovingLatency
from streamserve.signals import Averages

values = st.floats(0.0, 1e6)
samples = st.lists(st.tuples(values, st.floats(0.0, 1e4), st.floats(0.01, 100.0)), min_size=1, max_size=20)


def test_nothing_is_known_before_the_first_sample() -> None:
    assert DecayedMean(1.0).value is None
    assert MovingLatency().averages == Averages()


@given(samples)
@example([(5e-324, 0.0, 0.5)])
def test_it_lies_between_the_smallest_and_the_largest(taken: list[tuple[float, float, float]]) -> None:
    mean = DecayedMean(10.0)
    for value, at_s, weight in taken:
        mean.add(value, at_s, weight)
    assert mean.value is not None
    lowest, highest = min(value for value, *_ in taken), max(value for value, *_ in taken)
    # Products of the smallest of all numbers are 0.
    assert lowest * (1 - 1e-9) - 1e-300 <= mean.value <= highest * (1 + 1e-9)


@given(st.lists(values, min_size=1, max_size=20))
def test_samples_of_one_instant_count_alike(taken: list[float]) -> None:
    mean = DecayedMean(10.0)
    for value in taken:
        mean.add(value, 5.0)
    assert mean.value == pytest.approx(sum(taken) / len(taken))


def test_an_old_sample_weighs_less_by_the_factor_e_in_each_time_constant() -> None:
    mean = DecayedMean(10.0)
    mean.add(0.0, 0.0)
    mean.add(1.0, 10.0)
    assert mean.value == pytest.approx(1 / (1 + math.exp(-1)))


def test_after_a_long_pause_one_sample_is_nearly_all() -> None:
    mean = DecayedMean(10.0)
    for _ in range(1000):
        mean.add(1.0, 0.0)
    mean.add(5.0, 200.0)
    assert mean.value == pytest.approx(5.0, rel=1e-3)


def test_both_constants_of_a_latency() -> None:
    latency = MovingLatency()
    latency.add(1.0, 0.0)
    latency.add(2.0, 30.0)
    assert latency.samples == 2
    fast, slow = math.exp(-3), math.exp(-0.25)
    assert latency.averages.fast_s == pytest.approx((2 + fast) / (1 + fast))
    assert latency.averages.slow_s == pytest.approx((2 + slow) / (1 + slow))
