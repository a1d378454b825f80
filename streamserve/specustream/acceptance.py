"""How likely each position of a draft is accepted: a lane's average per position, and what sets a request apart."""

from collections.abc import Sequence
from dataclasses import dataclass

GUESS = (0.45, 0.55, 0.6)
"""Acceptance of positions 1, 2, 3 and all after, before anything was observed."""
GUESS_WEIGHT = 2.0
LANE_DECAY = 0.995
"""Per draft."""
REQUEST_DECAY = 0.9
"""Per draft of the request: matches and misses of copied text come in runs."""
REQUEST_WEIGHT = 4.0
"""Expected acceptances that pull a request to the lane's average."""
LOWEST, HIGHEST = 0.01, 0.99
RENORM = 1e9


@dataclass(slots=True)
class _Run:
    """One request's decayed counts: draft tokens accepted, and how many the lane's average would have had accepted."""

    accepted: float = REQUEST_WEIGHT
    expected: float = REQUEST_WEIGHT


class Acceptance:
    """Estimates per draft position of one lane; a position is observed only where all before it were accepted.

    max_depth: positions kept; later ones count as the last.
    """

    def __init__(self, max_depth: int) -> None:
        positions = max(1, max_depth)
        self._guess = [GUESS[min(j, len(GUESS) - 1)] for j in range(positions)]
        self._observed = [0.0] * positions
        self._accepted = [0.0] * positions
        self._unit = 1.0
        """Weight of the next draft: growing it decays all earlier ones at once."""
        self._lane = list(self._guess)
        self._requests: dict[str, _Run] = {}

    @property
    def lane(self) -> tuple[float, ...]:
        """Per position, the probability of acceptance if all before it were accepted."""
        return tuple(self._lane)

    @property
    def observations(self) -> float:
        """Decayed count of drafts whose first position was observed."""
        return self._observed[0] / self._unit

    def survival(self, request_id: str, length: int) -> list[float]:
        """Probability that a draft's first 1, 2, ... `length` tokens are all accepted."""
        run = self._requests.get(request_id)
        ratio = run.accepted / run.expected if run else 1.0
        lane = self._lane
        survivals = []
        survival = 1.0
        for j in range(length):
            rate = ratio * (lane[j] if j < len(lane) else lane[-1])
            survival *= LOWEST if rate < LOWEST else HIGHEST if rate > HIGHEST else rate
            survivals.append(survival)
        return survivals

    def observe(self, request_id: str, draft: Sequence[int], tokens: Sequence[int]) -> None:
        """Learn from a whole draft, however much of it was verified, and the tokens the request then gained.

        Up to its first difference from the output a draft is right, whether or not it was verified: exactly so under
        greedy decoding, and without bias under sampling, since the engine accepts a one-token proposal with the
        probability of sampling it. A draft that was verified deeper shows more positions, because more tokens are
        gained; what it shows of each is the same.
        """
        positions = min(len(draft), len(tokens))
        if not positions:
            return
        run = self._requests.get(request_id)
        if run is None:
            run = self._requests[request_id] = _Run()
        self._unit /= LANE_DECAY
        accepted, expected = 0, 0.0
        last = len(self._lane) - 1
        for j in range(positions):
            place = min(j, last)
            expected += self._lane[place]
            right = draft[j] == tokens[j]
            self._count(place, right)
            if not right:
                break
            accepted += 1
        run.accepted = REQUEST_WEIGHT + REQUEST_DECAY * (run.accepted - REQUEST_WEIGHT) + accepted
        run.expected = REQUEST_WEIGHT + REQUEST_DECAY * (run.expected - REQUEST_WEIGHT) + expected
        if self._unit > RENORM:
            self._renorm()

    def forget(self, request_id: str) -> None:
        """Drop a finished request; does nothing for an unknown one."""
        self._requests.pop(request_id, None)

    def _count(self, place: int, right: bool) -> None:
        unit = self._unit
        self._observed[place] += unit
        self._accepted[place] += unit * right
        prior = GUESS_WEIGHT * unit
        self._lane[place] = (self._accepted[place] + prior * self._guess[place]) / (self._observed[place] + prior)

    def _renorm(self) -> None:
        self._observed = [count / self._unit for count in self._observed]
        self._accepted = [count / self._unit for count in self._accepted]
        self._unit = 1.0
