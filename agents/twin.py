"""Twin: a second simulation of the same arrivals under the heuristic, whose reward is subtracted.

Most of the reward is the arrivals' doing, whoever routes them; what does not depend on the policy may be taken off
without changing which policy is best (input-dependent baselines, arXiv 1807.02264). What is left is above 0 where the
policy beats the heuristic.
"""

from bisect import bisect_right
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents.network import TWIN, Inputs, heuristic_action
from agents.potential import Potential
from agents.seeds import TRAINING

Observation = dict[str, NDArray[np.float32]]
Mask = NDArray[np.bool_]
EXPECTED = "expected_missed"
SAME_S = 1e-9
"""Instants as near as this are one: they are sums of the times between decisions, which may be others."""


class Twin(gym.Wrapper[Observation, Any, Observation, Any]):
    """The reward is that of `env` less what `twin` had between the same instants under the heuristic.

    Both are environments of the same settings, whose `info` has the time `dt` since the decision before. A decision
    that the policy takes at another instant than the heuristic did is compared with a straight line between the
    heuristic's own. What the twin had is in `info` as `twin_reward`, the context it has come to in the observation as
    `twin`. potential: what is added to rewards; it is in `info` as `shaping`.
    """

    def __init__(
        self, env: gym.Env[Observation, Any], twin: gym.Env[Observation, Any], potential: Potential | None = None
    ) -> None:
        super().__init__(env)
        self._twin = twin
        self._potential = potential
        self._info: dict[str, Any] = {}
        """The twin's last."""
        self._inputs = Inputs.of(env.observation_space, env.action_space)
        self.observation_space = _beside_a_twin(env.observation_space)
        self._seen: Observation = {}
        self._over = self._cut = True
        self._instants_s: list[float] = []
        self._sums: list[float] = []
        """Of the twin's rewards up to each of its instants."""
        self._booked = 0.0
        self._at_s = 0.0
        self._rng = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in both; without a seed, the next one of this wrapper's own."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        episode = int(self._rng.integers(TRAINING, 2 * TRAINING)) if seed is None else seed
        self._seen, self._info = self._twin.reset(seed=episode, options=options)
        self._over = self._cut = False
        self._instants_s, self._sums = [0.0], [0.0]
        self._booked = self._at_s = 0.0
        observation, info = self.env.reset(seed=episode, options=options)
        if self._potential is not None:
            self._potential.begin(info[EXPECTED], self._info[EXPECTED])
        return self._both(observation), info

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._at_s += info["dt"]
        twin_sum = self._twin_sum(self._at_s, whole=terminated)
        twin_reward = twin_sum - self._booked
        self._booked = twin_sum
        shaping = 0.0
        if self._potential is not None:
            shaping = self._potential.step(info[EXPECTED], self._info[EXPECTED], terminated)
        told = {**info, "twin_reward": twin_reward, "shaping": shaping}
        return self._both(observation), float(reward) - twin_reward + shaping, terminated, truncated, told

    def action_masks(self) -> Mask:
        """Those of `env`."""
        mask: Mask = self.env.get_wrapper_attr("action_masks")()
        return mask

    def close(self) -> None:
        """Close both."""
        try:
            self._twin.close()
        finally:
            super().close()

    def _both(self, observation: Observation) -> Observation:
        return {**observation, TWIN: self._seen["context"]}

    def _twin_sum(self, at_s: float, whole: bool) -> float:
        """The twin's rewards up to an instant, or of its whole episode."""
        while not self._over and (whole or self._instants_s[-1] < at_s - SAME_S):
            action = heuristic_action(self._inputs, self._seen)
            self._seen, reward, terminated, truncated, info = self._twin.step(action)
            self._info = info
            self._over, self._cut = terminated or truncated, truncated
            self._instants_s.append(self._instants_s[-1] + info["dt"])
            self._sums.append(self._sums[-1] + float(reward))
        if whole:
            return self._sums[-1]
        place = bisect_right(self._instants_s, at_s)
        if place == len(self._instants_s):
            if not self._cut or place < 2:
                return self._sums[-1]
            # Where the twin was cut a little earlier, it goes on as it went last.
            place -= 1
        before_s, after_s = self._instants_s[place - 1 : place + 1]
        share = (at_s - before_s) / (after_s - before_s) if after_s > before_s else 1.0
        return self._sums[place - 1] + share * (self._sums[place] - self._sums[place - 1])


def _beside_a_twin(space: gym.Space[Any]) -> Any:
    assert isinstance(space, gym.spaces.Dict)
    return gym.spaces.Dict({**space.spaces, TWIN: space["context"]})
