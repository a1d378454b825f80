"""The learner learns, and continues where it was stopped."""

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.interruption import Interruption
from agents.learner import learn, learner, resumed
from agents.recipe import Recipe, Residual
from agents.twin import Twin
from streamserve.errors import ConfigError
from tests.agents.toy import Toy

RECIPE = Recipe(n_envs=4, n_steps=64, batch_size=128, n_epochs=2, learning_rate=1e-3, twin=False)


def toys(count: int = RECIPE.n_envs, **options: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Toy(**options)) for _ in range(count)])


class Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


class Press(BaseCallback):
    """Presses Ctrl-C at some step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return True


def parameters(model: MaskablePPO) -> list[Any]:
    return [each.detach().clone() for each in model.policy.parameters()]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def mean_reward(model: MaskablePPO | None, seeds: range) -> float:
    """Of one job on the toy; None = round robin."""
    env, total = Toy(drained=True), 0.0
    for seed in seeds:
        seen, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            action = env.number % 2 if model is None else int(model.predict(seen, deterministic=True)[0])
            seen, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + reward, terminated or truncated
    return total / (len(seeds) * env.requests)


def test_a_short_run_beats_round_robin_where_one_lane_is_four_times_slower() -> None:
    recipe = Recipe(
        n_envs=8, n_steps=64, batch_size=128, n_epochs=4, learning_rate="lin_2e-3", target_kl=0.05, gamma=0.98,
        policy_kwargs=Residual(1.0, 4.0, hidden=32),
    )  # fmt: skip
    model = learner(recipe, toys(8), seed=0)
    seeds = range(10_000, 10_010)
    before = mean_reward(model, seeds)
    assert before == pytest.approx(mean_reward(None, seeds)), "untrained it is the heuristic"
    assert learn(model, 8192, Nothing())
    after = mean_reward(model, seeds)
    assert after > 0.6 * before, f"{-before:.2f} s per job before, {-after:.2f} s after"


def test_the_same_seed_gives_the_same_policy() -> None:
    runs = []
    for seed in (7, 7, 8):
        model = learner(RECIPE, toys(), seed)
        learn(model, 512, Nothing())
        runs.append(parameters(model))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def beside_twins() -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Twin(Toy(), Toy())) for _ in range(RECIPE.n_envs)])


def test_what_inputs_are_standardised_by_outlives_a_resumption(tmp_path: Path) -> None:
    model = learner(RECIPE, beside_twins(), seed=1)
    width = model.policy.inputs.features
    model.policy.standardise(np.full(width, 2.0), np.full(width, 3.0))
    learn(model, 256, Nothing())
    model.save(tmp_path / "model.zip")
    again = resumed(tmp_path / "model.zip", beside_twins(), seed=1)
    assert same(parameters(again), parameters(model))
    for encoder in (again.policy.pi_features_extractor, again.policy.vf_features_extractor):
        assert encoder.mean.eq(2.0).all() and encoder.std.eq(3.0).all()
    assert np.array_equal(again.policy.weights().W1, model.policy.weights().W1)


def test_a_run_without_a_twin_begins_with_the_policy_of_one_that_had_one(tmp_path: Path) -> None:
    model = learner(RECIPE, beside_twins(), seed=1)
    learn(model, 256, Nothing())
    model.save(tmp_path / "model.zip")
    alone = learner(msgspec.structs.replace(RECIPE, init=str(tmp_path)), toys(), seed=2)
    ours, theirs = alone.policy.weights().arrays(), model.policy.weights().arrays()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_model_of_another_network_is_refused(tmp_path: Path) -> None:
    learner(RECIPE, toys(), seed=1).save(tmp_path / "model.zip")
    with pytest.raises(ConfigError, match="another network than this version makes"):
        resumed(tmp_path / "model.zip", beside_twins(), seed=1)


def test_ctrl_c_stops_between_steps_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    model = learner(RECIPE, toys(), seed=1)
    with Interruption() as interruption:
        whole = learn(model, 1024, CallbackList([Press(at=256 + 100), interruption]))
    assert not whole and interruption.asked
    # One rollout of 4 * 64 was trained on; what was collected of the second one is not counted.
    assert model.num_timesteps == 256
    model.save(tmp_path / "model.zip")
    again = resumed(tmp_path / "model.zip", toys(), seed=2)
    assert same(parameters(again), parameters(model))
    assert again.num_timesteps == 256
    assert learn(again, 1024, Nothing())
    assert again.num_timesteps == 1024
    assert not same(parameters(again), parameters(model))
    assert learn(again, 1024, Nothing()), "nothing is left to do"


def test_a_resumed_run_goes_on_with_its_schedule_and_its_optimizer(tmp_path: Path) -> None:
    recipe = Recipe(n_envs=4, n_steps=64, batch_size=128, learning_rate="lin_1e-3", twin=False)
    rates: list[float] = []

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            rates.append(self.model.policy.optimizer.param_groups[0]["lr"])

    model = learner(recipe, toys(), seed=1)
    learn(model, 512, Note())
    moments = len(model.policy.optimizer.state)
    model.save(tmp_path / "model.zip")
    again = resumed(tmp_path / "model.zip", toys(), seed=2)
    assert len(again.policy.optimizer.state) == moments > 0
    learn(again, 1024, Note())
    # A run of 1024 steps from the start: its rate falls by a quarter with each of its 4 updates.
    assert rates[-1] == pytest.approx(1e-3 * 0.25)


class Bonus(BaseCallback):
    """What the learner's stored rewards have beside those of the environment, at the last step of a rollout."""

    last = 0.0
    value = 0.0

    def _on_step(self) -> bool:
        self.last = float(self.locals["rewards"][0])
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, MaskablePPO)
        self.value = float(self.model.rollout_buffer.rewards[-1, 0]) - self.last


@pytest.mark.parametrize(("drained", "bonus"), [(False, 0.9 * 100.0), (True, 0.0)])
def test_what_comes_after_a_cut_episode_has_a_value_and_after_a_drained_one_not(drained: bool, bonus: float) -> None:
    recipe = Recipe(n_envs=1, n_steps=16, batch_size=16, gamma=0.9, twin=False)
    model = learner(recipe, toys(1, requests=16, drained=drained), seed=3)
    with torch.no_grad():
        model.policy.value_net.bias.fill_(100.0)
    watch = Bonus()
    learn(model, 16, watch)
    assert watch.value == pytest.approx(bonus, rel=0.05, abs=1e-4)


def test_gymnasium_takes_the_toy_for_an_environment() -> None:
    from gymnasium.utils.env_checker import check_env

    env: gym.Env[Any, Any] = Toy()
    check_env(env, skip_render_check=True)
    assert isinstance(env.action_space.sample(), np.int64)
