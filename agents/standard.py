"""Standard: where observations lie under the heuristic, so that a network that begins to learn has them at 0 +- 1."""

from typing import Any

import gymnasium as gym
import numpy as np

from agents.network import Inputs, heuristic_action
from agents.samples import Samples
from agents.statistics import Values

STEPS = 4096
SHARE = 1 / 16
"""Of the training's steps, the most that are spent on it."""
EPISODE = {"requests": 128}
"""Short, so that there are more of them: what is randomised is drawn anew for each."""
LEAST_STD = 0.1
"""What hardly changes under the heuristic may do so under another policy, and must not drown all else then."""


def steps(n_timesteps: int) -> int:
    """How many to look at before a training of so many."""
    return max(1, min(STEPS, int(SHARE * n_timesteps)))


def standard(env: gym.Env[Any, Any], inputs: Inputs, steps: int, seed: int) -> tuple[Values, Values]:
    """Mean and standard deviation of [row, request, context] over so many steps of the heuristic."""
    samples = Samples(inputs)
    seen, _ = env.reset(seed=seed, options=EPISODE)
    for _ in range(steps):
        samples.add({name: each[None] for name, each in seen.items()})
        seen, _, terminated, truncated, _ = env.step(heuristic_action(inputs, seen))
        if terminated or truncated:
            seen, _ = env.reset(options=EPISODE)
    arrays = samples.arrays()
    each = [arrays[name].astype(np.float64) for name in (inputs.rows, *inputs.vectors)]
    mean = np.concatenate([values.mean(axis=0) for values in each])
    return mean, np.maximum(np.concatenate([values.std(axis=0) for values in each]), LEAST_STD)
