"""The twin takes off what the heuristic had over the same arrivals, and nothing else."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.twin import Twin
from tests.agents.toy import Toy


class Slow(gym.Wrapper[Any, Any, Any, Any]):
    """Says that each step takes longer by some seconds, so that its instants drift away from its twin's."""

    def __init__(self, env: gym.Env[Any, Any], slower_s: float) -> None:
        super().__init__(env)
        self.slower_s = slower_s

    def step(self, action: Any) -> Any:
        *rest, info = self.env.step(action)
        return (*rest, {**info, "dt": info["dt"] + self.slower_s})


def play(env: gym.Env[Any, Any], policy: Any, seed: int | None) -> list[tuple[float, dict[str, Any]]]:
    env.reset(seed=seed)
    steps: list[tuple[float, dict[str, Any]]] = []
    ended = False
    while not ended:
        _, reward, terminated, truncated, info = env.step(policy(len(steps)))
        steps.append((float(reward), info))
        ended = terminated or truncated
    return steps


@pytest.mark.parametrize("drained", [False, True])
def test_the_heuristic_gains_nothing_on_itself(drained: bool) -> None:
    steps = play(Twin(Toy(drained=drained), Toy(drained=drained)), lambda number: number % 2, seed=1)
    assert max(abs(reward) for reward, _ in steps) < 1e-9
    assert min(info["twin_reward"] for _, info in steps) < -0.1


@pytest.mark.parametrize("seed", [2, 3])
def test_rewards_sum_to_the_difference_of_both_episodes(seed: int) -> None:
    always_fast = play(Toy(drained=True), lambda _number: 0, seed)
    round_robin = play(Toy(drained=True), lambda number: number % 2, seed)
    both = play(Twin(Toy(drained=True), Toy(drained=True)), lambda _number: 0, seed)
    gained = sum(reward for reward, _ in both)
    assert gained == pytest.approx(sum(r for r, _ in always_fast) - sum(r for r, _ in round_robin))
    assert gained > 0
    assert sum(info["twin_reward"] for _, info in both) == pytest.approx(sum(r for r, _ in round_robin))


def test_a_decision_at_another_instant_is_compared_up_to_that_instant() -> None:
    steps = play(Twin(Slow(Toy(requests=10), 0.01), Toy(requests=10)), lambda number: number % 2, seed=4)
    plain = play(Toy(requests=10), lambda number: number % 2, seed=4)
    instants = np.cumsum([0.0, *(info["dt"] for _, info in plain)])
    sums = np.cumsum([0.0, *(reward for reward, _ in plain)])
    told = np.cumsum([info["dt"] for _, info in steps])
    expected = np.interp(told, instants, sums)
    # The twin ended earlier, and is taken to go on as it went last.
    slope = (sums[-1] - sums[-2]) / (instants[-1] - instants[-2])
    expected[-1] = sums[-1] + slope * (told[-1] - instants[-1])
    assert np.cumsum([info["twin_reward"] for _, info in steps]) == pytest.approx(expected)


def test_episodes_without_a_seed_are_new_ones_and_the_same_after_the_same_seed() -> None:
    def rewards() -> list[list[float]]:
        env = Twin(Toy(), Toy())
        return [[info["twin_reward"] for _, info in play(env, lambda _number: 0, seed)] for seed in (5, None, None)]

    first, second, third = rewards()
    assert first != second != third
    assert rewards() == [first, second, third]


class Counting(Toy):
    """Its context tells the number of the decision."""

    def _seen(self) -> dict[str, np.ndarray]:
        seen = super()._seen()
        seen["context"][0] = self.number
        return seen


def test_what_the_twin_has_come_to_is_observed() -> None:
    env = Twin(Slow(Counting(requests=10), 1.0), Counting(requests=10))
    seen, _ = env.reset(seed=6)
    assert env.observation_space.contains(seen)
    numbers = [(seen["context"][0], seen["twin"][0])]
    for _ in range(10):
        seen, *_ = env.step(0)
        numbers.append((seen["context"][0], seen["twin"][0]))
    own, twin = np.array(numbers).T
    # The environment is a second slower with each decision, in which the twin takes some more.
    assert own.tolist() == list(range(11))
    assert twin[0] == 0 and (twin >= own).all() and twin[2] > own[2] and twin[-1] == 10


def test_masks_are_those_of_the_environment() -> None:
    env = Twin(Toy(), Toy())
    env.reset(seed=1)
    assert env.action_masks().tolist() == [True, True]
