"""A small environment in Route's shape: two lanes, the second one four times slower, and round robin as heuristic."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from streamserve.policy.layout import CONTEXT, PAIRS, REQUEST
from streamserve.types import Result
from tests.agents.spaces import observations

SPEEDS = (4.0, 1.0)
RATE = 2.0
PLACES = PAIRS.places


class Toy(gym.Env[Any, Any]):
    """Jobs of exponential work come at random; a step is one of them, its reward minus the time all jobs spend."""

    metadata = {"render_modes": []}

    def __init__(self, requests: int = 100, drained: bool = False, depths: int = 1) -> None:
        self.observation_space = observations(len(SPEEDS))
        self.action_space = spaces.Discrete(len(SPEEDS) * depths)
        self.requests, self.drained, self.depths = requests, drained, depths

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.number, self.at_s = 0, 0.0
        self.free_s = [0.0, 0.0]
        self.ends_s: list[float] = []
        self.gaps_s = self.np_random.exponential(1 / RATE, self.requests)
        self.work = self.np_random.exponential(1.0, self.requests)
        return self._seen(), self._info(0.0, 0.0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        lane = int(action) // self.depths
        done_s = max(self.at_s, self.free_s[lane]) + self.work[self.number] / SPEEDS[lane]
        self.free_s[lane] = done_s
        self.ends_s.append(done_s)
        begun_s, self.at_s = self.at_s, self.at_s + float(self.gaps_s[self.number])
        self.number += 1
        ended = self.number == self.requests
        if ended and self.drained:
            self.at_s = max(self.ends_s)
        spent_s = sum(min(end_s, self.at_s) - begun_s for end_s in self.ends_s)
        self.ends_s = [end_s for end_s in self.ends_s if end_s > self.at_s]
        info = self._info(spent_s, self.at_s - begun_s)
        return self._seen(), -spent_s, ended and self.drained, ended and not self.drained, info

    def signals(self) -> None:
        return None

    def results(self) -> tuple[Result, ...]:
        return ()

    def action_masks(self) -> np.ndarray:
        return np.ones(len(SPEEDS) * self.depths, bool)

    def _info(self, cost_s: float, dt: float) -> dict[str, Any]:
        costs = {"cost/ttft": cost_s, "cost/decode": 0.0, "cost/slo": 0, "cost/failures": 0}
        return {**costs, "dt": dt, "invalid_actions": 0, "heuristic": self.number % len(SPEEDS) * self.depths}

    def _seen(self) -> dict[str, np.ndarray]:
        pairs = np.zeros((len(SPEEDS), len(PAIRS)))
        pairs[:, PLACES["present"]] = 1.0
        pairs[self.number % len(SPEEDS), PLACES["heuristic"]] = 1.0
        for lane, speed in enumerate(SPEEDS):
            pairs[lane, PLACES["prefill_backlog_s"]] = max(0.0, self.free_s[lane] - self.at_s)
            pairs[lane, PLACES["prefill_slowness"]] = SPEEDS[0] / speed
        return {
            "pairs": PAIRS.apply(pairs),
            "request": REQUEST.apply(np.zeros(len(REQUEST))),
            "context": CONTEXT.apply(np.zeros(len(CONTEXT))),
        }
