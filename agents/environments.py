"""The environments of a recipe: those of `envs`, wrapped for training or bare for comparisons."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import msgspec
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401  # importing it registers the environments
from agents.potential import Potential
from agents.recipe import Recipe
from agents.recorder import Recorder
from agents.twin import Twin
from streamserve import config as configuration
from streamserve.errors import ConfigError
from streamserve.lanes.sim import calibration as calibrations

DRAINED = {"drain": True}
"""Over the settings of an environment for comparisons: the same requests under every policy, to their end."""


def calibrated(recipe: Recipe) -> Recipe:
    """The recipe with the name of its calibration: where it has none, the one that ships for its model.

    Raises `ConfigError` when none does.
    """
    if recipe.plant == "live" or "calibration" in recipe.env_kwargs:
        return recipe
    config = recipe.env_kwargs.get("config", "cpu-pair")
    model = (configuration.load(config) if isinstance(config, str) else config).model
    for name in calibrations.names():
        if calibrations.load(name).origin.model == model:
            return msgspec.structs.replace(recipe, env_kwargs={**recipe.env_kwargs, "calibration": name})
    raise ConfigError(f"no calibration ships for the model {model}: make one with streamserve calibrate and name it")


def make(recipe: Recipe, changes: Mapping[str, Any] | None = None) -> gym.Env[Any, Any]:
    """One environment, with some of its settings changed. Raises `ConfigError`."""
    live = "Live" if recipe.plant == "live" else ""
    given = {**recipe.env_kwargs, **(changes or {})}
    # The checker looks at every step; the environments have tests of their own for that.
    return gym.make(f"streamserve/{recipe.env}{live}-v0", disable_env_checker=True, **given)


def potential(recipe: Recipe, env: gym.Env[Any, Any]) -> Potential | None:
    """That shapes the rewards of training, None where the recipe wants none."""
    weights = env.get_wrapper_attr("settings").weights
    return Potential(recipe.gamma, weights.slo / weights.scale) if recipe.shaping else None


def training(recipe: Recipe, one: Callable[[], gym.Env[Any, Any]]) -> DummyVecEnv:
    """As many as the recipe says, in this process; with twins where it says so. one: makes a bare one."""

    def wrapped() -> gym.Env[Any, Any]:
        env = one()
        return Monitor(Recorder(Twin(env, one(), potential(recipe, env)) if recipe.twin else env))

    return DummyVecEnv([wrapped] * recipe.n_envs)
