"""Rating: the comparison with the heuristic that is repeated during training, and the checkpoints that come of it."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from agents.folder import Folder
from agents.network import TWIN
from agents.recipe import Trials
from agents.statistics import estimate
from agents.trial import Act, Episode, MakeEnv, Observation, gains, heuristic, play
from streamserve import whole


class Rating(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One comparison: the share of the heuristic's cost that the policy saves, 0.05 = 5 % better."""

    steps: int
    gain: float
    low: float
    high: float
    costs: list[float]
    """By seed."""


class Ratings(msgspec.Struct, forbid_unknown_fields=True):
    """All comparisons of a run, on the same seeds."""

    seeds: list[int]
    heuristic_costs: list[float]
    ratings: list[Rating]

    @property
    def best(self) -> Rating | None:
        return max(self.ratings, key=lambda rating: rating.gain, default=None)


def read(folder: Folder) -> Ratings | None:
    """Those of a run, None before its first. Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(folder.trials.read_bytes(), type=Ratings) if folder.trials.exists() else None


class Rater(BaseCallback):
    """Compares every so many steps, writes `trials.json` and TensorBoard's `eval/*`, and has checkpoints saved.

    keep: saves the learner as it is; whether it is the best so far.
    """

    def __init__(
        self, trials: Trials, make: MakeEnv, folder: Folder, keep: Callable[[bool], None], say: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._trials, self._make, self._folder = trials, make, folder
        self._keep, self._say = keep, say
        self.ratings: Ratings | None = None
        """Of the run, earlier parts of it included."""
        self._next = 0

    def _init_callback(self) -> None:
        self.ratings = read(self._folder)
        if self.ratings is None and self._trials.seeds:
            seeds = [self._trials.first_seed + number for number in range(self._trials.seeds)]
            costs = [episode.cost for episode in play(self._make, seeds, heuristic(self._make))]
            self.ratings = Ratings(seeds, costs, [])
        every = self._trials.every
        self._next = (self.model.num_timesteps // every + 1) * every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # Between two rollouts: what was learned from the last one is in the policy.
        if self.num_timesteps >= self._next:
            self._next = (self.num_timesteps // self._trials.every + 1) * self._trials.every
            self.rate()

    @property
    def best(self) -> Rating | None:
        """The best comparison so far."""
        return None if self.ratings is None else self.ratings.best

    def rate(self) -> None:
        """Compare now, and have the learner saved; without seeds, only that."""
        ratings = self.ratings
        if ratings is None or not self._trials.seeds:
            self._keep(False)
            return
        episodes = play(self._make, ratings.seeds, greedy(self.model.policy))
        costs = [episode.cost for episode in episodes]
        gained = estimate([gains(costs, ratings.heuristic_costs)], np.random.default_rng(0))
        rating = Rating(self.model.num_timesteps, gained.value, gained.low, gained.high, costs)
        best = ratings.best
        is_best = best is None or rating.gain > best.gain
        ratings.ratings.append(rating)
        whole.write(self._folder.trials, msgspec.json.format(msgspec.json.encode(ratings), indent=1))
        self._tell(rating, episodes)
        self._keep(is_best)

    def _tell(self, rating: Rating, episodes: Sequence[Episode]) -> None:
        assert self.ratings is not None
        tags = {
            "eval/mean_reward": float(np.mean([episode.reward for episode in episodes])),
            "eval/heuristic_reward": -float(np.mean(self.ratings.heuristic_costs)),
            "eval/gain": rating.gain,
            "eval/gain_low": rating.low,
            "eval/gain_high": rating.high,
        }
        for tag, value in tags.items():
            self.logger.record(tag, value)
        self.logger.dump(self.model.num_timesteps)
        self._say(
            f"{rating.steps} steps: {rating.gain:+.1%} against the heuristic "
            f"[{rating.low:+.1%}, {rating.high:+.1%}] over {len(episodes)} episodes"
        )


def greedy(policy: Any) -> Act:
    """The likeliest action of a `StreamPolicy`, without a twin."""
    twin = policy.observation_space.spaces.get(TWIN)

    def act(batch: Observation, masks: NDArray[np.bool_]) -> Sequence[Any]:
        # Only the value reads it, and that is not asked.
        unseen = {} if twin is None else {TWIN: np.zeros((len(masks), *twin.shape), np.float32)}
        actions: Sequence[Any] = policy.predict({**batch, **unseen}, deterministic=True, action_masks=masks)[0]
        return actions

    return act
