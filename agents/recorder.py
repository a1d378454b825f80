"""Recorder: what happens in one training environment, until somebody takes it."""

from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from streamserve.types import Result

COSTS = ("ttft", "decode", "slo", "failures")


@dataclass(slots=True)
class Record:
    """Sums over some steps, and the requests that ended in them."""

    steps: int = 0
    reward: float = 0.0
    """As the learner gets it."""
    twin_reward: float = 0.0
    shaping: float = 0.0
    """Of the reward."""
    costs: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COSTS, 0.0))
    """Unweighted: seconds before and after first tokens, deadlines passed, failures."""
    agreed: float = 0.0
    """Steps in which the policy did what the heuristic would have done; of controls, the share of the lanes."""
    invalid: int = 0
    drafted: int = 0
    accepted: int = 0
    written: int = 0
    """Draft tokens verified, those accepted, and output tokens, of the episodes that ended."""
    results: list[tuple[int, Result]] = field(default_factory=list)
    """With the place of the lane that decoded it, -1 of a request that never ran."""


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Goes around an environment of `envs`; nothing in `info` goes further, since it is copied at every step."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._record = Record()
        self._heuristic: Any = None
        self._invalid = 0
        self._told = 0

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        seen, info = self.env.reset(**given)
        self._heuristic = info["heuristic"]
        self._invalid = self._told = 0
        return seen, {}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        signals = self.env.get_wrapper_attr("signals")()
        seen, reward, terminated, truncated, info = self.env.step(action)
        record = self._record
        record.steps += 1
        record.reward += float(reward)
        record.twin_reward += info.get("twin_reward", 0.0)
        record.shaping += info.get("shaping", 0.0)
        for cost in COSTS:
            record.costs[cost] += info[f"cost/{cost}"]
        record.agreed += _agreement(action, self._heuristic)
        record.invalid += info["invalid_actions"] - self._invalid
        self._invalid, self._heuristic = info["invalid_actions"], info["heuristic"]
        if terminated or truncated:
            self._collect()
            for lane in signals.lanes.values() if signals is not None else ():
                record.drafted += lane.draft_tokens_total
                record.accepted += lane.accepted_tokens_total
                record.written += lane.output_tokens_total
        return seen, reward, terminated, truncated, {}

    def action_masks(self) -> NDArray[np.bool_]:
        """Those of the environment."""
        mask: NDArray[np.bool_] = self.env.get_wrapper_attr("action_masks")()
        return mask

    def take(self) -> Record:
        """What was recorded since the last time."""
        self._collect()
        record, self._record = self._record, Record()
        return record

    def _collect(self) -> None:
        results = self.env.get_wrapper_attr("results")()
        scenario = getattr(self.env.unwrapped, "scenario", None)
        places = {lane.id: place for place, lane in enumerate(scenario.config.lanes)} if scenario else {}
        for result in results[self._told :]:
            decision = result.decision
            self._record.results.append((places[decision.decode] if decision else -1, result))
        self._told = len(results)


def _agreement(action: Any, heuristic: Any) -> float:
    return float(np.mean(np.asarray(action) == np.asarray(heuristic)))


def merged(records: list[Record]) -> Record:
    """All of them as one."""
    whole = Record()
    for each in records:
        whole.steps += each.steps
        whole.reward += each.reward
        whole.twin_reward += each.twin_reward
        whole.shaping += each.shaping
        for cost in COSTS:
            whole.costs[cost] += each.costs[cost]
        whole.agreed += each.agreed
        whole.invalid += each.invalid
        whole.drafted += each.drafted
        whole.accepted += each.accepted
        whole.written += each.written
        whole.results += each.results
    return whole
