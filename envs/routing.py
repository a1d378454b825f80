"""Serve and Route: the agent is the router, one step per routing decision."""

from typing import Any

import gymnasium
import numpy as np

from envs.asking import Asked
from envs.environment import Environment, Observation, boxes
from envs.parts import Routing
from envs.remote_parts import RemoteAsked
from envs.settings import Settings
from envs.talk import End
from streamserve.policy.codec import PAIRS_MOST, Codec
from streamserve.policy.controls import DEPTH_CAPS
from streamserve.policy.question import Answer, Mask


class RoutingEnv(Environment[np.int64]):
    """One step routes one request: `Discrete(P * K)`, a = pair * K + depth cap, or `Discrete(P)` without `depth`.

    Raises `ConfigError`.
    """

    def __init__(
        self,
        depth: bool,
        render_mode: str | None = None,
        most_pairs: int = PAIRS_MOST,
        depth_caps: tuple[int | None, ...] = DEPTH_CAPS,
        **given: Any,
    ) -> None:
        self.codec = Codec(most_pairs, tuple(depth_caps))
        self._depth = depth
        super().__init__(Routing(self.codec), render_mode, Settings.of(**given))
        actions = most_pairs * len(depth_caps) if depth else most_pairs
        self._actions = actions
        self.action_space = gymnasium.spaces.Discrete(actions)
        self.observation_space = boxes(self.codec.bounds())

    def _observation(self, asked: Asked | RemoteAsked | End) -> Observation:
        return self.codec.empty() if isinstance(asked, End) else dict(asked.question.observation)

    def _mask(self, asked: Asked | RemoteAsked | None) -> Mask:
        if asked is not None:
            return self.codec.mask(asked.question, self._depth)
        mask: Mask = np.zeros(self._actions, bool)
        mask[0] = True
        return mask

    def _answer(self, asked: Asked | RemoteAsked, action: np.int64) -> tuple[Answer, int]:
        answer = self.codec.answer(asked.question, int(action), self._depth)
        if answer is None:
            return Answer(asked.question.places[asked.question.heuristic], None), 1
        return answer, 0

    def _heuristic(self, asked: Asked | RemoteAsked | End) -> int:
        return 0 if isinstance(asked, End) else self.codec.heuristic_action(asked.question, self._depth)
