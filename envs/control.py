"""Spec: the agent sets the depth control of every lane, one step per control tick."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.environment import Environment, Observation, boxes
from envs.parts import Controls, Ticked, Ticking
from envs.settings import Settings
from envs.talk import End
from streamserve.policy.controls import CONTROLS
from streamserve.policy.lane_codec import LANES_MOST, LaneCodec
from streamserve.policy.question import Mask
from streamserve.signals import DepthControl


class ControlEnv(Environment[NDArray[np.int64]]):
    """One step sets all lanes: `MultiDiscrete([K] * L)`, an index of a control for each. Raises `ConfigError`."""

    def __init__(
        self,
        render_mode: str | None = None,
        most_lanes: int = LANES_MOST,
        controls: tuple[DepthControl, ...] = CONTROLS,
        **given: Any,
    ) -> None:
        self.codec = LaneCodec(most_lanes, tuple(controls))
        settings = Settings.of(**given)
        super().__init__(Ticking(self.codec, settings.tick_s), render_mode, settings)
        self.action_space = gymnasium.spaces.MultiDiscrete([len(controls)] * most_lanes)
        self.observation_space = boxes(self.codec.bounds())

    def _observation(self, asked: Ticked | End) -> Observation:
        return self.codec.empty() if isinstance(asked, End) else dict(asked.observation)

    def _mask(self, asked: Ticked | None) -> Mask:
        if asked is not None:
            return asked.mask
        mask: Mask = np.zeros((self.codec.most_lanes, len(self.codec.controls)), bool)
        mask[:, 0] = True
        return mask.ravel()

    def _answer(self, asked: Ticked, action: NDArray[np.int64]) -> tuple[Controls, int]:
        indices = self.codec.answer(asked.signals, [int(each) for each in action])
        # Where the lane cannot be set at all, there is nothing to replace.
        settable = np.all(asked.mask.reshape(self.codec.most_lanes, -1), axis=1)
        ids = list(asked.signals.lanes)
        controls = {lane: index or 0 for lane, index in indices.items() if settable[ids.index(lane)]}
        return controls, sum(index is None for index in indices.values())

    def _heuristic(self, asked: Ticked | End) -> NDArray[np.int64]:
        return np.zeros(self.codec.most_lanes, np.int64)
