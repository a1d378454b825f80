"""An episode of an environment over real lanes, under the heuristic."""

from typing import Any

import pytest


def played(environment: Any, seed: int, requests: int) -> None:
    """Play one that drains: every observation is in its space, every request ends well, rewards sum to latencies."""
    observation, info = environment.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        assert environment.observation_space.contains(observation)
        observation, reward, terminated, truncated, info = environment.step(info["heuristic"])
        total += reward
        over = terminated or truncated
    results = environment.unwrapped.results()
    assert terminated, info
    assert [result.error for result in results] == [None] * requests
    assert -total == pytest.approx(sum(result.e2e_s for result in results), abs=1e-6)
