"""Guard: when a trained policy is not to be followed."""

import time
from collections.abc import Callable, Mapping

import numpy as np

from streamserve.config import PolicyConfig
from streamserve.metrics.policy import Fallback
from streamserve.policy.arms import Arms, Comparison
from streamserve.policy.card import Bounds
from streamserve.policy.columns import Observed

SLACK = 1e-4
"""Beyond its bounds a feature may be by this much: bounds of a constant feature are one number."""
LATE_IN_A_ROW = 2
"""A single late answer is more often the machine's doing, when lanes keep every core busy."""


class Envelope:
    """Where the observations of training lay. most_outside: the share of features that may lie elsewhere."""

    def __init__(self, bounds: Mapping[str, Bounds], most_outside: float) -> None:
        self._bounds = {
            array: (np.array(each.low, np.float32) - SLACK, np.array(each.high, np.float32) + SLACK)
            for array, each in bounds.items()
        }
        self._most_outside = most_outside

    def share_outside(self, **arrays: Observed) -> float:
        """Share of the features that lie outside. arrays: whole rows, features last."""
        outside = features = 0
        for array, values in arrays.items():
            low, high = self._bounds[array]
            outside += int(np.count_nonzero((values < low) | (values > high)))
            features += values.size
        return outside / max(1, features)

    def holds(self, **arrays: Observed) -> bool:
        """Whether few enough features lie outside."""
        return self.share_outside(**arrays) <= self._most_outside


class Guard:
    """Watches one policy: its time, its predicted costs, and how its requests fare beside the heuristic's.

    bounds: where the observations of its training lay. timer: seconds that measure an answer.
    A policy whose requests fared worse stays off; loading it again is a new chance.
    """

    def __init__(
        self, config: PolicyConfig, bounds: Mapping[str, Bounds], timer: Callable[[], float] = time.perf_counter
    ) -> None:
        self.envelope = Envelope(bounds, config.outside)
        self.timer = timer
        self._config = config
        self._late = 0
        self._cooling = 0
        self._arms = Arms(config.compare)
        self.verdict: Comparison | None = None
        """The comparison that turned the policy off."""

    def closed(self) -> Fallback | None:
        """Why the policy is not even asked; its turn passes either way."""
        if self.verdict is not None:
            return Fallback.WORSE
        if self._cooling:
            self._cooling -= 1
            return Fallback.COOLING
        return None

    def took(self, seconds: float) -> Fallback | None:
        """Whether an answer came in time. After several in a row that did not, a pause begins."""
        budget_us = self._config.budget_us
        if budget_us is None or 1e6 * seconds <= budget_us:
            self._late = 0
            return None
        self._late += 1
        if self._late >= LATE_IN_A_ROW:
            self._late, self._cooling = 0, self._config.cooldown
        return Fallback.OVER_BUDGET

    def costs(self, chosen_s: float, heuristic_s: float) -> Fallback | None:
        """Whether the predicted cost of its choice is bearable; one that is not a number is not."""
        return None if chosen_s <= self._config.rho * heuristic_s else Fallback.COSTLY

    def learn(self, learned: bool, seconds_per_token: float) -> Comparison | None:
        """Another result of a canary's arm; the comparison if it has just turned against the policy."""
        self._arms.add(learned, seconds_per_token)
        if self.verdict is None and (comparison := self._arms.compare()) is not None and comparison.worse:
            self.verdict = comparison
            return comparison
        return None
