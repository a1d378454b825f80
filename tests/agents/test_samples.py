"""Samples are spread over the whole run and hold no empty row."""

import numpy as np
from gymnasium import spaces

from agents.network import Inputs
from agents.samples import Samples
from tests.agents.spaces import PRESENT, observations, random


def samples(capacity: int) -> Samples:
    return Samples(Inputs.of(observations(4), spaces.Discrete(4)), capacity)


def test_what_is_kept_is_spread_evenly_over_the_run() -> None:
    subject = samples(capacity=100)
    for number in range(1000):
        seen, _, _ = random(np.random.default_rng(0), 4, 4, 1)
        seen["context"][:] = number
        subject.add(seen)
    numbers = subject.arrays()["context"][:, 0]
    assert 50 <= len(subject) <= 100
    assert np.unique(np.diff(numbers)).tolist() == [16]
    assert numbers[0] == 0 and numbers[-1] > 950


def test_what_the_policy_does_not_read_is_left_out() -> None:
    subject = samples(capacity=100)
    seen, _, _ = random(np.random.default_rng(1), 5, 4, 1)
    subject.add({**seen, "twin": seen["context"]})
    assert set(subject.arrays()) == {"pairs", "request", "context"}


def test_empty_rows_are_left_out() -> None:
    subject = samples(capacity=100)
    seen, _, _ = random(np.random.default_rng(1), 30, 4, 1)
    subject.add(seen)
    arrays = subject.arrays()
    assert len(arrays["request"]) == 30
    assert len(arrays["pairs"]) == int(seen["pairs"][:, :, PRESENT].sum()) < 4 * 30
    assert (arrays["pairs"][:, PRESENT] == 1).all()
