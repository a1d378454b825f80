"""What a network's inputs are standardised by: what the heuristic meets."""

import numpy as np
import pytest

from agents.network import Inputs
from agents.standard import LEAST_STD, standard, steps
from streamserve.policy.layout import CONTEXT, PAIRS, REQUEST
from tests.agents.toy import Toy

SLOWNESS, BACKLOG, PRESENT = (PAIRS.places[name] for name in ("prefill_slowness", "prefill_backlog_s", "present"))


def measured(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    env = Toy(requests=40)
    return standard(env, Inputs.of(env.observation_space, env.action_space), count, seed)


def test_it_is_over_rows_and_over_episodes() -> None:
    mean, std = measured(400)
    assert mean.shape == std.shape == (len(PAIRS) + len(REQUEST) + len(CONTEXT),)
    # One of the two lanes is four times slower; ratios are logarithms.
    assert mean[SLOWNESS] == pytest.approx(np.log(4) / 2, rel=1e-5)
    assert std[SLOWNESS] == pytest.approx(np.log(4) / 2, rel=1e-5)
    assert 0 < mean[BACKLOG] < 10 and std[BACKLOG] > 0.5
    again, _ = measured(400)
    other, _ = measured(400, seed=1)
    assert np.array_equal(mean, again) and mean[BACKLOG] != other[BACKLOG]


def test_what_never_changes_is_not_blown_up() -> None:
    mean, std = measured(50)
    assert mean[PRESENT] == 1.0 and std[PRESENT] == LEAST_STD
    assert std.min() == LEAST_STD


def test_a_short_training_is_not_kept_waiting() -> None:
    assert [steps(each) for each in (1, 64, 61_440, 10_000_000)] == [1, 4, 3840, 4096]
