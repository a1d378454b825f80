"""Arms: a canary's requests beside the others, and whether they fare significantly worse."""

import math
from collections import deque
from dataclasses import dataclass

LONGEST = 50
"""Results of both arms that are kept, in multiples of those of the rarer one."""
FEWEST = 30
"""Results of each arm before they are compared."""
DEVIATIONS = 3.5
"""Half an interval in standard errors: it is looked at after every result, and one of 95 % would cry wolf in time."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds per expected token: means of the two arms, and the interval of learned less heuristic."""

    learned_s: float
    heuristic_s: float
    low_s: float
    high_s: float

    @property
    def worse(self) -> bool:
        """Whether learned is significantly slower."""
        return self.low_s > 0


class Arms:
    """The last results, of both arms over the same time: what the load did to one it did to the other.

    most: how many of the rarer arm are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._results: deque[tuple[bool, float]] = deque()
        self._learned = _Sums()
        self._heuristic = _Sums()

    def add(self, learned: bool, seconds_per_token: float) -> None:
        """Another result of one arm."""
        if not math.isfinite(seconds_per_token):
            return
        self._results.append((learned, seconds_per_token))
        self._of(learned).count(seconds_per_token, 1)
        while self._fewest() > self._most or len(self._results) > LONGEST * self._most:
            arm, value = self._results.popleft()
            self._of(arm).count(value, -1)

    def compare(self) -> Comparison | None:
        """None while either arm has fewer results than tell anything."""
        if self._fewest() < FEWEST:
            return None
        learned, heuristic = self._learned, self._heuristic
        off_s = learned.mean - heuristic.mean
        margin_s = DEVIATIONS * math.sqrt(learned.variance / learned.results + heuristic.variance / heuristic.results)
        return Comparison(learned.mean, heuristic.mean, off_s - margin_s, off_s + margin_s)

    def _of(self, learned: bool) -> "_Sums":
        return self._learned if learned else self._heuristic

    def _fewest(self) -> int:
        return min(self._learned.results, self._heuristic.results)


class _Sums:
    def __init__(self) -> None:
        self.results = 0
        self._sum = 0.0
        self._squares = 0.0

    def count(self, value: float, sign: int) -> None:
        self.results += sign
        self._sum += sign * value
        self._squares += sign * value * value

    @property
    def mean(self) -> float:
        return self._sum / self.results

    @property
    def variance(self) -> float:
        return max(0.0, self._squares - self._sum * self.mean) / (self.results - 1)
