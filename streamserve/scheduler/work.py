"""Work: how long a request will keep a lane busy, from what steps cost and how long answers turn out to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low

from streamserve.signals import LaneSignals
from streamserve.types import LaneId, LaneState, Request

MEMORY_TOKENS = 100_000.0
"""Asked-for output tokens over which the share that is really generated is averaged."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds per token on a typical lane."""

    prefill_token_s: float
    output_token_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """Predicted seconds of one request on a lane, alone in the line but not on the lane."""

    prefill_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        return self.prefill_s + self.decode_s


def costs(lanes: Mapping[LaneId, LaneSignals]) -> Costs:
    """The median of the ready lanes, of all where none is ready: a decode step of today's batch, a token of prefill."""
    typical = [lane for lane in lanes.values() if lane.state is LaneState.READY] or list(lanes.values())
    return Costs(
        median_low(lane.cost.prefill_token_s for lane in typical),
        median_low(lane.cost.decode_step_s(max(1, lane.running)) / max(1.0, lane.step_output) for lane in typical),
    )


class WorkEstimate:
    """Predicts the work of a request before any router has looked at it.

    The whole prompt counts, since what is cached depends on the lane; of `max_tokens` the share that requests have
    generated so far, recent ones counting more.
    """

    def __init__(self) -> None:
        self._asked = 0.0
        self._generated = 0.0

    @property
    def output_share(self) -> float:
        """Output tokens per token of `max_tokens`; 1 before anything was learned."""
        return self._generated / self._asked if self._asked else 1.0

    def learn(self, max_tokens: int, output_tokens: int) -> None:
        """Note how long a request became that ended by itself."""
        kept = max(0.0, 1.0 - max_tokens / MEMORY_TOKENS)
        self._asked = kept * self._asked + max_tokens
        self._generated = kept * self._generated + output_tokens

    def of(self, request: Request, costs: Costs) -> Work:
        """The request's predicted work at these costs."""
        output_tokens = request.max_tokens * self.output_share
        return Work(request.prompt_tokens * costs.prefill_token_s, output_tokens * costs.output_token_s)
