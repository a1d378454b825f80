"""How likely each token of a draft is accepted: a lane's average per kind of token, and what sets a request apart."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamserve.specustream.draft import Draft

GUESS_WEIGHT = 4.0
"""Observations that the guess of a kind counts for."""
KIND_DECAY = 0.998
"""Per observation of the kind."""
REQUEST_DECAY = 0.9
"""Per draft of the request: matches and misses of copied text come in runs."""
REQUEST_WEIGHT = 4.0
"""Expected acceptances that pull a request to the lane's average."""
LOWEST, HIGHEST = 0.01, 0.99


@dataclass(slots=True)
class _Run:
    """One request's decayed counts: draft tokens accepted, and how many the lane's average would have had accepted."""

    accepted: float = REQUEST_WEIGHT
    expected: float = REQUEST_WEIGHT


class Acceptance:
    """Estimates per kind of draft token on one lane; a token is observed only where all before it were accepted.

    guesses: per kind, the acceptance before anything was observed.
    """

    def __init__(self, guesses: Sequence[float]) -> None:
        self._guess = list(guesses)
        self._observed = [0.0] * len(guesses)
        self._accepted = [0.0] * len(guesses)
        self._lane = list(guesses)
        self._requests: dict[str, _Run] = {}
        self.drafts = 0
        """Drafts observed so far."""

    @property
    def lane(self) -> tuple[float, ...]:
        """Per kind, the probability of acceptance if all before it were accepted."""
        return tuple(self._lane)

    def survival(self, request_id: str, kinds: Sequence[int]) -> list[float]:
        """Probability that a draft's first 1, 2, ... tokens, of these kinds, are all accepted."""
        run = self._requests.get(request_id)
        ratio = run.accepted / run.expected if run else 1.0
        lane = self._lane
        survivals = []
        survival = 1.0
        for kind in kinds:
            rate = ratio * lane[kind]
            survival *= LOWEST if rate < LOWEST else HIGHEST if rate > HIGHEST else rate
            survivals.append(survival)
        return survivals

    def observe(self, request_id: str, draft: Draft, tokens: Sequence[int]) -> int:
        """Learn from a whole draft, however much of it was verified, and the tokens the request then gained.

        Up to its first difference from the output a draft is right, whether or not it was verified: exactly so under
        greedy decoding, and without bias under sampling, since the engine accepts a one-token proposal with the
        probability of sampling it. A draft that was verified deeper shows more tokens, because more are gained; what
        it shows of each is the same. Returns how many tokens of the draft were right.
        """
        positions = min(len(draft.tokens), len(tokens))
        if not positions:
            return 0
        run = self._requests.get(request_id)
        if run is None:
            run = self._requests[request_id] = _Run()
        self.drafts += 1
        right, expected = 0, 0.0
        for place in range(positions):
            kind = draft.kinds[place]
            expected += self._lane[kind]
            accepted = draft.tokens[place] == tokens[place]
            self._count(kind, accepted)
            if not accepted:
                break
            right += 1
        run.accepted = REQUEST_WEIGHT + REQUEST_DECAY * (run.accepted - REQUEST_WEIGHT) + right
        run.expected = REQUEST_WEIGHT + REQUEST_DECAY * (run.expected - REQUEST_WEIGHT) + expected
        return right

    def forget(self, request_id: str) -> None:
        """Drop a finished request; does nothing for an unknown one."""
        self._requests.pop(request_id, None)

    def _count(self, kind: int, accepted: bool) -> None:
        observed = self._observed[kind] = KIND_DECAY * self._observed[kind] + 1
        right = self._accepted[kind] = KIND_DECAY * self._accepted[kind] + accepted
        self._lane[kind] = (right + GUESS_WEIGHT * self._guess[kind]) / (observed + GUESS_WEIGHT)
