"""What a simulated lane must know of a request that a real one finds out: its `payload`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from streamserve.types import NO_SLO, Request, Slo

Found = tuple[int, int]
"""A draft: the place of its class in `Calibration.acceptance`, and how many of its tokens are right."""


@dataclass(frozen=True, slots=True)
class SimWork:
    """A request's future. Schedulers, routers and environments never look at it."""

    output_tokens: int
    """Tokens after which it stops by itself; `max_tokens` may end it earlier."""
    workload: str
    """Whose drafts it has: a key of `Calibration.acceptance`."""
    seed: int = 0
    """Of its drafts' luck: the same under every policy (common random numbers)."""
    found: Sequence[Found | None] | None = field(default=None, repr=False)
    """By output tokens so far, the draft for those that follow; None = drafts are drawn from those of its workload."""


def sim_request(
    id: str, prompt_token_ids: tuple[int, ...], max_tokens: int, arrived_s: float, work: SimWork, slo: Slo = NO_SLO
) -> Request:
    """A request to simulated lanes, which can resume anywhere."""
    return Request(id, prompt_token_ids, max_tokens, arrived_s, payload=work, continuable=True, slo=slo)
