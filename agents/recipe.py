"""Recipe: what a training run does, from YAML with the keys of RL Baselines3 Zoo and a few of our own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from streamserve import document
from streamserve.config import config_folder
from streamserve.errors import ConfigError
from streamserve.policy.card import Deadlines

Schedule = Callable[[float], float]
"""Share of the training that is left, 1 to 0 -> value."""
LINEAR = "lin_"


class Residual(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far Network v1's correction can go beside its prior."""

    tau: float = 4.0
    """Weight of the prior; the untrained policy takes FlowGuard's choice exp(tau) times as often as an equal one."""
    kappa: float = 4.0
    """The most that the correction adds to or takes from a logit; above tau / 2, any choice can be overruled."""
    penalty: float = 1.0
    """What every choice of depth but the first (as the lane decides) is behind in the prior."""
    hidden: int = 64


class Trials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The comparison with the heuristic that is repeated during training."""

    every: int = 50_000
    """Steps between two of them."""
    seeds: int = 8
    """Episodes of each, on the same seeds every time; training never sees these."""
    first_seed: int = 1_000_000
    env_kwargs: dict[str, Any] = {}
    """Over those of the training environment."""


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hyperparameters as Stable-Baselines3 names them, the environment, and what is compared on the way."""

    env: Literal["Serve", "Route", "Spec"] = "Route"
    plant: Literal["sim", "live"] = "sim"
    n_timesteps: int = 1_000_000
    n_envs: int = 8
    n_steps: int = 512
    """Steps of each environment between two updates."""
    batch_size: int = 1024
    n_epochs: int = 4
    gamma: float = 0.995
    gae_lambda: float = 0.98
    learning_rate: float | str = "lin_3e-4"
    """A number, or lin_NUMBER: falls from there to 0 in a straight line."""
    clip_range: float | str = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = 0.03
    policy_kwargs: Residual = Residual()
    goal: Literal["latency", "goodput"] = "latency"
    """What the policy is judged by: the cost of all requests, or the share of them that meet the deadlines in
    `env_kwargs.slo`."""
    env_kwargs: dict[str, Any] = {}
    """Of the environment, domain randomisation included."""
    init: str | None = None
    """A checkpoint of an earlier run to begin with instead of the heuristic: its folder with `model.zip`."""
    twin: bool = True
    """Whether the reward is what the policy gains on the heuristic over the same arrivals; in simulation only."""
    shaping: bool = True
    """With a twin: whether deadlines that are expected to be missed cost from the decision on (`agents.potential`)."""
    trials: Trials = msgspec.field(default_factory=Trials)

    @property
    def deadlines(self) -> Deadlines | None:
        """Those of its requests, where it is about meeting them."""
        slo = self.env_kwargs.get("slo") or {}
        ttft_s, tpot_s = slo.get("ttft_s"), slo.get("tpot_s")
        return Deadlines(ttft_s, tpot_s) if self.goal == "goodput" and ttft_s and tpot_s else None


def load(source: str, overrides: Sequence[str] = (), folder: Path | None = None) -> Recipe:
    """The recipe in a YAML file, or of a name in the folder of those that ship. Raises `ConfigError`."""
    folder = folder or recipe_folder()
    path = Path(source) if source.endswith((".yaml", ".yml")) else folder / f"{source}.yaml"
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"no recipe {source!r}: give a YAML file or one of {', '.join(names(folder))}") from error
    tree = document.parse(text, source)
    for override in overrides:
        document.override(tree, override)
    return checked(document.decode(tree, Recipe, source), source)


def recipe_folder() -> Path:
    """The folder of the recipes that ship with StreamServe."""
    return config_folder() / "train"


def names(folder: Path | None = None) -> list[str]:
    """The names that `load` knows, sorted."""
    return sorted(path.stem for path in (folder or recipe_folder()).glob("*.yaml"))


def checked(recipe: Recipe, source: str) -> Recipe:
    """The same recipe. Raises `ConfigError` if it cannot work."""
    counts = {
        "n_timesteps": recipe.n_timesteps,
        "n_envs": recipe.n_envs,
        "n_epochs": recipe.n_epochs,
        "trials.every": recipe.trials.every,
    }
    for key, count in counts.items():
        if count < 1:
            raise ConfigError(f"{source}: {key} must be at least 1, got {count}")
    if recipe.n_steps * recipe.n_envs < 2 or recipe.batch_size < 2:
        raise ConfigError(f"{source}: n_steps * n_envs and batch_size must be at least 2: advantages are normalised")
    for key, share in {"gamma": recipe.gamma, "gae_lambda": recipe.gae_lambda}.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{source}: {key} must be between 0 and 1, got {share}")
    residual = recipe.policy_kwargs
    if residual.hidden < 1 or not 0 <= min(residual.tau, residual.kappa, residual.penalty) < float("inf"):
        raise ConfigError(f"{source}: policy_kwargs: tau, kappa and penalty must be 0 or more, hidden 1 or more")
    schedule(recipe.learning_rate, f"{source}: learning_rate")
    schedule(recipe.clip_range, f"{source}: clip_range")
    if recipe.goal == "goodput" and recipe.deadlines is None:
        raise ConfigError(f"{source}: goal goodput needs env_kwargs.slo with ttft_s and tpot_s above 0")
    if recipe.plant == "live" and recipe.twin:
        raise ConfigError(f"{source}: a twin run needs plant: sim, real lanes cannot serve the same twice at once")
    if recipe.plant == "live" and recipe.n_envs > 1:
        raise ConfigError(f"{source}: plant: live has one set of lanes, so n_envs must be 1; got {recipe.n_envs}")
    return recipe


def schedule(value: float | str, key: str = "value") -> Schedule:
    """A constant, or `lin_NUMBER`. Raises `ConfigError`."""
    text = str(value)
    linear = text.startswith(LINEAR)
    try:
        start = float(text.removeprefix(LINEAR))
    except ValueError as error:
        raise ConfigError(f"{key}: write a number or lin_NUMBER, e.g. lin_3e-4; got {value!r}") from error
    if not 0 < start < float("inf"):
        raise ConfigError(f"{key} must be above 0, got {value!r}")
    return Linear(start) if linear else Constant(start)


class Constant(msgspec.Struct, frozen=True):
    """The same all the time."""

    value: float

    def __call__(self, left: float) -> float:
        return self.value


class Linear(msgspec.Struct, frozen=True):
    """Falls to 0 in a straight line."""

    start: float

    def __call__(self, left: float) -> float:
        return self.start * left
