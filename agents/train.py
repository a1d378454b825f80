"""Training: a recipe to a run in its folder, with checkpoints that serve and that training goes on from."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import HParam, configure
from stable_baselines3.common.vec_env import VecEnv

from agents import environments, export, learner
from agents.folder import RUNS, Begun, Folder, free_name
from agents.interruption import Interruption
from agents.keeper import Keeper
from agents.learner import MODEL
from agents.rating import Rater, Rating
from agents.recipe import Recipe
from agents.report import curve
from agents.scalars import Scalars
from agents.seeds import stream
from agents.standard import standard, steps
from agents.statistics import Estimate
from streamserve.errors import ConfigError
from streamserve.policy import store

Say = Callable[[str], None]


Extra = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Helpers:
    """What a run is given from outside."""

    say: Say
    extra: Extra
    """Settings of the environment that no file can hold."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training run came to."""

    folder: Folder
    steps: int
    whole: bool
    """Whether it made all its steps; False when it was stopped."""
    best: Rating | None
    """Of all comparisons so far."""


def train(
    recipe: Recipe, seed: int, name: str | None, say: Say, runs: Path = RUNS, extra: Extra | None = None
) -> Outcome:
    """A new run. extra: settings of the environment that no file can hold. Raises `ConfigError`."""
    recipe = environments.calibrated(recipe)
    # Before there is a folder: whatever cannot work has left nothing behind.
    env = environments.make(recipe, extra)
    try:
        if recipe.plant == "sim":
            # Whether its calibration, lanes and traces go together, the first episode shows.
            env.reset(seed=stream(seed))
    finally:
        env.close()
    wish = name or free_name(recipe.env.lower(), runs)
    folder = Folder.new(wish, Begun(recipe, seed, export.command(sys.argv)), runs)
    return _run(folder, recipe, seed, None, Helpers(say, extra or {}))


def begun(source: str, runs: Path = RUNS) -> Begun:
    """What a run was started with. Raises `ConfigError`."""
    return Folder.of(source, runs).begun()


def resume(source: str, n_timesteps: int | None, say: Say, runs: Path = RUNS, extra: Extra | None = None) -> Outcome:
    """Go on with a run that was stopped, or with one that shall be longer. Raises `ConfigError`."""
    folder = Folder.of(source, runs)
    begun = folder.begun()
    if not (folder.last / MODEL).is_file():
        raise ConfigError(f"{folder.path} has no checkpoint yet: start it anew with streamserve train")
    made = store.card(folder.last).steps if (folder.last / store.CARD).exists() else 0
    recipe = begun.recipe if n_timesteps is None else msgspec.structs.replace(begun.recipe, n_timesteps=n_timesteps)
    if made >= recipe.n_timesteps:
        raise ConfigError(f"{folder.path} has made its {made} decisions: give more of them with --total-timesteps")
    # Whoever stops this part goes on with it, and not with what was asked for at first.
    folder.note(msgspec.structs.replace(begun, recipe=recipe))
    return _run(folder, recipe, begun.seed, folder.last / MODEL, Helpers(say, extra or {}))


def _run(folder: Folder, recipe: Recipe, seed: int, checkpoint: Path | None, helpers: Helpers) -> Outcome:
    envs = environments.training(recipe, lambda: environments.make(recipe, helpers.extra))
    helpers.say(
        f"{folder.path}: {recipe.n_timesteps} decisions in {recipe.n_envs} environments; "
        f"watch it with streamserve tensorboard --logdir {folder.path.parent}"
    )
    try:
        model = _fresh(recipe, envs, seed, helpers) if checkpoint is None else learner.resumed(checkpoint, envs, seed)
        model.set_logger(configure(str(folder.path), ["tensorboard"]))
        try:
            return _learn(model, folder, recipe, seed, helpers)
        finally:
            model.logger.close()
    finally:
        envs.close()


def _fresh(recipe: Recipe, envs: VecEnv, seed: int, helpers: Helpers) -> MaskablePPO:
    model = learner.learner(recipe, envs, seed)
    if recipe.init is None and recipe.plant == "sim":
        env = environments.make(recipe, helpers.extra)
        try:
            # After the seeds of the training's own environments.
            first_seed = stream(seed) + recipe.n_envs
            model.policy.standardise(*standard(env, model.policy.inputs, steps(recipe.n_timesteps), first_seed))
        finally:
            env.close()
    return model


def _learn(model: MaskablePPO, folder: Folder, recipe: Recipe, seed: int, helpers: Helpers) -> Outcome:
    envs = model.get_env()
    assert envs is not None
    keeper = Keeper(folder, recipe, seed, envs)
    live = recipe.plant == "live"
    # Real lanes cannot serve episodes of a comparison beside those of the training.
    trials = msgspec.structs.replace(recipe.trials, seeds=0) if live else recipe.trials
    rater = Rater(trials, lambda: environments.make(recipe, compared(recipe)), folder, keeper.keep, helpers.say)
    scalars = Scalars(msgspec.structs.asdict(envs.get_attr("settings")[0].weights))
    model.logger.record(
        "hparams", HParam(_flat(recipe, seed), {"eval/gain": 0.0}), exclude=("stdout", "log", "json", "csv")
    )
    with Interruption() as interruption:
        callbacks = CallbackList([rater, keeper, scalars, interruption])
        whole = learner.learn(model, recipe.n_timesteps, callbacks, sys.stderr.isatty())
        if whole:
            rater.rate()
        else:
            # Whoever presses Ctrl-C does not want to wait for a comparison.
            keeper.keep(is_best=False)
    outcome = Outcome(folder, model.num_timesteps, whole, rater.best)
    if (ratings := rater.ratings) is not None and ratings.ratings:
        gains = [Estimate(each.gain, each.low, each.high) for each in ratings.ratings]
        curve(folder.path / "curve.png", folder.name, [each.steps for each in ratings.ratings], gains)
    return outcome


def compared(recipe: Recipe) -> dict[str, Any]:
    """Over the settings of its environment, those of the comparisons during training."""
    return {**environments.DRAINED, **recipe.trials.env_kwargs}


def _flat(recipe: Recipe, seed: int) -> dict[str, Any]:
    told = msgspec.to_builtins(msgspec.structs.replace(recipe, env_kwargs={}))
    return {"seed": seed, **{key: value for key, value in told.items() if isinstance(value, bool | int | float | str)}}
