"""Trials: a policy and the heuristic over the same episodes, seed by seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents.network import Inputs, heuristic_action
from agents.statistics import relative
from streamserve.types import Result

Observation = Mapping[str, NDArray[np.float32]]
Act = Callable[[Observation, NDArray[np.bool_]], Sequence[Any]]
"""A batch of observations and their masks -> an action for each."""
MakeEnv = Callable[[], gym.Env[Any, Any]]
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Episode:
    """What came of one episode."""

    seed: int
    reward: float
    """The sum of its rewards."""
    steps: int
    results: Sequence[Result]
    """Of its requests."""
    reason: str | None = None
    """Why it was cut off, None when all its requests ended."""

    @property
    def cost(self) -> float:
        """What its requests cost, above 0 as a rule."""
        return -self.reward


def play(make: MakeEnv, seeds: Sequence[int], act: Act) -> list[Episode]:
    """One episode of each seed, all at the same time so that a network is asked once for all of them."""
    envs = [make() for _ in seeds]
    try:
        seen = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
        rewards, steps = [0.0] * len(seeds), [0] * len(seeds)
        episodes: dict[int, Episode] = {}
        while running := [place for place in range(len(seeds)) if place not in episodes]:
            batch = {name: np.stack([seen[place][name] for place in running]) for name in seen[0]}
            masks = np.stack([envs[place].get_wrapper_attr("action_masks")() for place in running])
            for place, action in zip(running, act(batch, masks), strict=True):
                seen[place], reward, terminated, truncated, info = envs[place].step(action)
                rewards[place] += float(reward)
                steps[place] += 1
                if terminated or truncated:
                    results = envs[place].get_wrapper_attr("results")()
                    episodes[place] = Episode(seeds[place], rewards[place], steps[place], results, info.get("reason"))
    finally:
        for env in envs:
            env.close()
    return [episodes[place] for place in range(len(seeds))]


def heuristic(make: MakeEnv) -> Act:
    """FlowGuard, with depths as the lanes decide."""
    env = make()
    inputs = Inputs.of(env.observation_space, env.action_space)
    env.close()

    def act(batch: Observation, _masks: NDArray[np.bool_]) -> Sequence[Any]:
        count = len(batch[inputs.rows])
        return [
            heuristic_action(inputs, {name: each[number] for name, each in batch.items()}) for number in range(count)
        ]

    return act


def gains(costs: Sequence[float], rival_costs: Sequence[float]) -> list[float]:
    """Of costs by seed, the share of the rival's that is saved, as `relative` has it: 0.05 = 5 % better."""
    ours, theirs = np.asarray(costs, np.float64), np.asarray(rival_costs, np.float64)
    saved: list[float] = relative(theirs - ours, theirs, TINY).tolist()
    return saved
