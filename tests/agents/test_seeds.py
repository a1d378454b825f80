"""Seeds of training are no comparison's, and hardly ever two runs'."""

from typing import Any

import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.learner import learner
from agents.recipe import Recipe, Trials
from agents.scenarios import FIRST_SEED
from agents.seeds import TRAINING, stream
from agents.twin import Twin
from tests.agents.toy import Toy

MOST_SEEDS = 100_000
"""More episodes than any comparison has."""


class Noting(Toy):
    """Keeps the seeds that it is reset with."""

    def __init__(self, seeds: list[int | None]) -> None:
        super().__init__(requests=5)
        self.seeds = seeds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)


def test_neighbouring_seeds_and_resumed_runs_share_no_environment_s_arrivals() -> None:
    firsts = sorted(stream(seed, done) for seed in range(40) for done in (0, 1024, 2048))
    assert all(after - before > 64 for before, after in zip(firsts, firsts[1:], strict=False))
    assert stream(3) == stream(3, 0) != stream(3, 1)


def test_training_has_no_seed_of_a_comparison() -> None:
    assert all(TRAINING <= stream(seed) < 2 * TRAINING for seed in range(1000))
    assert max(FIRST_SEED, Trials().first_seed) + MOST_SEEDS < TRAINING


@pytest.mark.parametrize("seed", [0, 1])
def test_a_learner_s_environments_have_the_seeds_of_its_stream(seed: int) -> None:
    seeds: list[int | None] = []
    envs = DummyVecEnv([lambda: Noting(seeds) for _ in range(3)])
    learner(Recipe(n_envs=3, n_steps=4, batch_size=4, twin=False), envs, seed)
    envs.reset()
    assert seeds == [stream(seed) + place for place in range(3)]


def test_a_twin_s_later_episodes_are_of_training_too() -> None:
    seeds: list[int | None] = []
    env = Twin(Noting(seeds), Toy(requests=5))
    env.reset(seed=TRAINING)
    for _ in range(50):
        env.reset()
    assert all(each is not None and TRAINING <= each < 2 * TRAINING for each in seeds)
    assert len(set(seeds)) == 51
