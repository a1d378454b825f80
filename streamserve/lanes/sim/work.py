"""What a simulated lane must know of a request that a real one finds out: its `payload`."""

from dataclasses import dataclass

from streamserve.types import NO_SLO, Request, Slo


@dataclass(frozen=True, slots=True)
class SimWork:
    """A request's future. Schedulers, routers and environments never look at it."""

    output_tokens: int
    """Tokens after which it stops by itself; `max_tokens` may end it earlier."""
    workload: str
    """Whose drafts it has: a key of `Calibration.acceptance`."""
    seed: int = 0
    """Of its drafts' luck: the same under every policy (common random numbers)."""


def sim_request(
    id: str, prompt_token_ids: tuple[int, ...], max_tokens: int, arrived_s: float, work: SimWork, slo: Slo = NO_SLO
) -> Request:
    """A request to simulated lanes, which can resume anywhere."""
    return Request(id, prompt_token_ids, max_tokens, arrived_s, payload=work, continuable=True, slo=slo)
