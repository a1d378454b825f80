"""Rhythm: rates of decisions at two time constants."""

import pytest

from streamserve.policy.rhythm import FAST_S, SLOW_S, Beat, Rhythm


def test_a_steady_pace_is_found() -> None:
    rhythm = Rhythm()
    for number in range(3000):
        beat = rhythm.beat(0.1 * number)
    assert beat.fast_per_s == pytest.approx(10.0, rel=0.05)
    assert beat.slow_per_s == pytest.approx(10.0, rel=0.05)
    assert beat.gap_s == pytest.approx(0.1)


def test_the_fast_average_notices_first_that_nothing_comes() -> None:
    rhythm = Rhythm()
    assert rhythm.at(5.0) == Beat()
    beat = rhythm.beat(10.0)
    assert (beat.fast_per_s, beat.slow_per_s, beat.gap_s) == (1 / FAST_S, 1 / SLOW_S, 0.0)
    later = rhythm.at(10.0 + FAST_S)
    assert later.fast_per_s / beat.fast_per_s < later.slow_per_s / beat.slow_per_s
    assert rhythm.at(10.0).gap_s == 0.0


def test_a_clock_that_goes_back_changes_nothing() -> None:
    rhythm = Rhythm()
    rhythm.beat(10.0)
    assert rhythm.beat(9.0).gap_s == 0.0
    assert rhythm.at(10.5).gap_s == 0.5
