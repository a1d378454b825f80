"""Keeper: saves a learner's checkpoints, for training to go on from and for serving to load."""

from collections.abc import Mapping
from pathlib import Path

from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents import export
from agents.folder import Folder
from agents.learner import MODEL
from agents.network import Inputs
from agents.recipe import Recipe
from agents.samples import Samples
from streamserve.errors import ConfigError
from streamserve.lanes.sim import calibration as calibrations
from streamserve.policy import store
from streamserve.policy.card import Bounds, Topology, envelope


class Keeper(BaseCallback):
    """Notes what the environments show, for the card of every checkpoint that it saves."""

    def __init__(self, folder: Folder, recipe: Recipe, seed: int, envs: VecEnv) -> None:
        super().__init__()
        self._folder = folder
        self._origin = _origin(folder.name, recipe, seed, envs)
        self._samples = Samples(Inputs.of(envs.observation_space, envs.action_space))
        self._topologies: set[Topology] = set()
        self._before: Mapping[str, Bounds] = {}
        if (folder.last / store.CARD).exists():
            earlier = store.card(folder.last)
            if earlier.calibration.hash != self._origin.calibration.hash:
                raise ConfigError(
                    f"{folder.path} was trained on another calibration {earlier.calibration.name!r} than there is now, "
                    "and what it compares with too: put that one back, or begin anew with init"
                )
            self._before, self._topologies = earlier.envelope, set(earlier.topologies)

    def _on_step(self) -> bool:
        self._samples.add(self.locals["new_obs"])
        if self.locals["dones"].any():
            self._meet()
        return True

    def _on_rollout_start(self) -> None:
        self._meet()

    def keep(self, is_best: bool) -> None:
        """Save the learner as the last one, and as the best where it is."""
        self._save(self._folder.last)
        if is_best:
            self._save(self._folder.best)

    def _save(self, folder: Path) -> None:
        model = self.model
        assert isinstance(model, MaskablePPO)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"part-{MODEL}"
        model.save(part)
        part.replace(folder / MODEL)
        if len(self._samples):
            seen = export.Seen(_widest(envelope(self._samples.arrays()), self._before), self._topologies)
            export.export(folder, model.policy, self._origin, seen, model.num_timesteps)

    def _meet(self) -> None:
        for scenario in self.training_env.get_attr("scenario"):
            if scenario is not None:
                config = scenario.config
                self._topologies.add(Topology(len(config.lanes), len(config.stream_pairs())))


def _origin(name: str, recipe: Recipe, seed: int, envs: VecEnv) -> export.Origin:
    settings, codec = envs.get_attr("settings")[0], envs.get_attr("codec")[0]
    source = recipe.env_kwargs.get("calibration")
    loaded = calibrations.load(source) if isinstance(source, str) else source
    title = Path(source).stem if isinstance(source, str) else "given"
    return export.Origin(name, recipe, seed, export.calibration_of(title, loaded, settings.config), codec)


def _widest(first: Mapping[str, Bounds], second: Mapping[str, Bounds]) -> dict[str, Bounds]:
    """What either holds: a resumed run has learned from all that it saw before, too."""
    widest = dict(first)
    for array in first.keys() & second.keys():
        one, other = first[array], second[array]
        low = [min(pair) for pair in zip(one.low, other.low, strict=True)]
        high = [max(pair) for pair in zip(one.high, other.high, strict=True)]
        widest[array] = Bounds(low, high)
    return widest
