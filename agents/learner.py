"""The learner: sb3-contrib's MaskablePPO with Network v1, as a recipe says."""

from pathlib import Path

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.network import StreamPolicy
from agents.recipe import Recipe, schedule
from agents.seeds import stream
from streamserve.errors import ConfigError, one_line

MODEL = "model.zip"


def learner(recipe: Recipe, envs: VecEnv, seed: int) -> MaskablePPO:
    """A learner that knows the heuristic, or what the recipe says to begin with. Raises `ConfigError`."""
    _one_thread()
    model = MaskablePPO(
        StreamPolicy,
        envs,
        learning_rate=schedule(recipe.learning_rate),
        n_steps=recipe.n_steps,
        batch_size=min(recipe.batch_size, recipe.n_steps * recipe.n_envs),
        n_epochs=recipe.n_epochs,
        gamma=recipe.gamma,
        gae_lambda=recipe.gae_lambda,
        clip_range=schedule(recipe.clip_range),
        ent_coef=recipe.ent_coef,
        vf_coef=recipe.vf_coef,
        max_grad_norm=recipe.max_grad_norm,
        target_kl=recipe.target_kl,
        policy_kwargs={"residual": recipe.policy_kwargs},
        seed=stream(seed),
        device="cpu",
    )
    if recipe.init is not None:
        _begin_with(model, Path(recipe.init) / MODEL)
    return model


def resumed(path: Path, envs: VecEnv, seed: int) -> MaskablePPO:
    """The learner in a `model.zip`, at the step where it was saved. It is unpickled: open only files of your own runs.

    seed: the run's own; its arrivals go on with others than those that the learner knows.
    """
    _one_thread()
    model = _loaded(path, envs)
    model.set_random_seed(stream(seed, model.num_timesteps))
    return model


def learn(model: MaskablePPO, n_timesteps: int, callback: BaseCallback, progress_bar: bool = False) -> bool:
    """Go on until the model has made `n_timesteps` in all; False if the callback ended it earlier.

    Steps of a rollout that was cut short taught nothing, and are not counted.
    """
    if (left := n_timesteps - model.num_timesteps) <= 0:
        return True
    watch = _Rollouts()
    model.learn(left, [watch, callback], reset_num_timesteps=False, progress_bar=progress_bar)
    whole = model.num_timesteps >= n_timesteps and not watch.open
    if watch.open:
        model.num_timesteps = watch.begun_at
    return whole


def _begin_with(model: MaskablePPO, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"init: there is no {path}; name the folder of a checkpoint, e.g. runs/route-1/best")
    earlier = _loaded(path).policy
    if not isinstance(earlier, StreamPolicy) or earlier.inputs != model.policy.inputs:
        raise ConfigError(f"init: {path} was trained for other observations or actions: use one of the same env")
    if earlier.residual.hidden != model.policy.residual.hidden:
        raise ConfigError(f"init: {path} has policy_kwargs.hidden {earlier.residual.hidden}: set the same")
    own, known = model.policy.state_dict(), earlier.state_dict()
    # Where one has a twin and the other none, the value begins with another layer; the policies are the same.
    fitting = {name: value for name, value in known.items() if value.shape == own[name].shape}
    model.policy.load_state_dict({**own, **fitting})


def _loaded(path: Path, envs: VecEnv | None = None) -> MaskablePPO:
    try:
        return MaskablePPO.load(path, envs, device="cpu", force_reset=True)
    except (RuntimeError, ValueError) as error:
        # What torch says of weights that do not fit, and SB3 of observations.
        why = f"{path} has another network than this version makes ({one_line(error)}): train anew"
        raise ConfigError(why) from error


class _Rollouts(BaseCallback):
    """Knows at which step the rollout began that is being collected."""

    open = False
    begun_at = 0

    def _on_rollout_start(self) -> None:
        self.open, self.begun_at = True, self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        self.open = False

    def _on_step(self) -> bool:
        return True


def _one_thread() -> None:
    # For networks this small, more threads only wait for each other, and take the cores of whatever else runs.
    torch.set_num_threads(1)
