"""Knots: the step costs of all lanes as arrays, so that t(V) of every lane is one expression."""

import numpy as np

from streamserve.flowguard.pairs import Floats
from streamserve.signals import StepCost

REREAD_S = 0.1
"""A lane's costs move by a few percent per second; reading them at every step would take longer than deciding."""


class Knots:
    """`StepCost` of each lane, at most `REREAD_S` older than the lane's last report."""

    def __init__(self) -> None:
        self._read: list[tuple[StepCost, float]] = []
        self._tokens: Floats = np.zeros((0, 1))
        self._seconds: Floats = np.zeros((0, 1))
        self._slopes: Floats = np.zeros((0, 1))
        self._rows = np.zeros(0, np.int64)
        self.prefill_token_s: Floats = np.zeros(0)

    def refresh(self, costs: list[StepCost], at_s: list[float]) -> None:
        """Read what changed. at_s: when each lane reported."""
        lengths = [len(cost.decode_s) for cost in costs]
        if len(costs) != len(self._read) or max(lengths) > self._tokens.shape[1]:
            self._lay_out(len(costs), max(lengths))
        for place, (cost, reported_s) in enumerate(zip(costs, at_s, strict=True)):
            known, read_s = self._read[place]
            if cost is not known and not read_s < reported_s < read_s + REREAD_S:
                self._read[place] = (cost, reported_s)
                self._put(place, cost)

    def step_s(self, tokens: Floats) -> Floats:
        """Seconds of steps that verify this many tokens, one row per question and one column per lane."""
        # The last segment that has begun; the one that begins at the last knot goes on with the slope before it.
        segment = (self._tokens[:, 1:] < tokens[..., None]).sum(axis=-1)
        begun = self._tokens[self._rows, segment]
        seconds: Floats = self._seconds[self._rows, segment] + self._slopes[self._rows, segment] * np.maximum(
            0.0, tokens - begun
        )
        return seconds

    def _lay_out(self, lanes: int, knots: int) -> None:
        self._read = [(StepCost(), -np.inf)] * lanes
        self._tokens = np.full((lanes, knots), np.inf)
        self._seconds = np.zeros((lanes, knots))
        self._slopes = np.zeros((lanes, knots))
        self._rows = np.arange(lanes)
        self.prefill_token_s = np.zeros(lanes)

    def _put(self, place: int, cost: StepCost) -> None:
        knots = np.array(cost.decode_s, float)
        count = len(knots)
        self._tokens[place] = np.inf
        self._tokens[place, :count] = knots[:, 0]
        self._seconds[place, :count] = knots[:, 1]
        self._slopes[place] = 0.0
        if count > 1:
            steps = knots[1:] - knots[:-1]
            self._slopes[place, : count - 1] = steps[:, 1] / steps[:, 0]
            self._slopes[place, count - 1] = self._slopes[place, count - 2]
        self.prefill_token_s[place] = max(0.0, cost.prefill_token_s)
