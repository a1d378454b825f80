"""Routers: the stream pair for a request, from a snapshot alone."""

from collections.abc import Callable, Sequence

from streamserve.errors import ConfigError, NoLane
from streamserve.protocols import Router
from streamserve.signals import Signals
from streamserve.types import Decision, LaneId, LaneState, Request

Pair = tuple[LaneId, LaneId]
Pairs = tuple[Pair, ...]

DECODE_COST_TOKENS = 128
"""What one decoding request costs a lane, in prompt tokens.

On a CPU lane one more request in the batch adds about as much to a step as 1.5 prompt tokens take, for some 100 steps.
"""

DEGRADED = "degraded: no configured pair is ready"


class RoundRobin:
    """The ready pair that was chosen longest ago; blind to load."""

    name = "round_robin"

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._turns = _Turns()

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        pairs, degraded = candidates(self._pairs, signals)
        prefill, decode = self._turns.take(pairs)
        return Decision(prefill, decode, self.name, DEGRADED if degraded else "next in turn")


class LeastLoaded:
    """The ready pair with the least work in front of the request; ties go to the one chosen longest ago.

    A lane's work, in prompt tokens, is what it has yet to prefill plus `DECODE_COST_TOKENS` for each request that
    decodes there or will. The request waits for its prefill lane's work before its first token and shares its decode
    lane's steps after it, so a pair costs the sum of both; a lane paired with itself counts twice, once for each part.
    The counts are the scheduler's own and never stale.
    """

    name = "least_loaded"

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._turns = _Turns()

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        pairs, degraded = candidates(self._pairs, signals)
        work = {
            lane: load.prefill_tokens + DECODE_COST_TOKENS * load.decode_requests for lane, load in signals.load.items()
        }
        costs = [work[prefill] + work[decode] for prefill, decode in pairs]
        least = min(costs)
        prefill, decode = self._turns.take([pair for pair, cost in zip(pairs, costs, strict=True) if cost == least])
        scores = {"prefill_work_tokens": float(work[prefill]), "decode_work_tokens": float(work[decode])}
        return Decision(prefill, decode, self.name, DEGRADED if degraded else "least work", scores)


ROUTERS: dict[str, Callable[[Pairs], Router]] = {RoundRobin.name: RoundRobin, LeastLoaded.name: LeastLoaded}


def build(name: str, pairs: Pairs) -> Router:
    """The router of that name over the configured pairs. Raises `ConfigError`."""
    if name not in ROUTERS:
        raise ConfigError(f"router: no router {name!r}; choose one of {', '.join(sorted(ROUTERS))}")
    return ROUTERS[name](pairs)


def candidates(pairs: Pairs, signals: Signals) -> tuple[Pairs, bool]:
    """The pairs that can serve now, and whether they are a makeshift: every ready lane with itself.

    Raises `NoLane`.
    """
    ready = {lane for lane, snapshot in signals.lanes.items() if snapshot.state is LaneState.READY}
    if configured := tuple(pair for pair in pairs if ready.issuperset(pair)):
        return configured, False
    if alone := tuple((lane, lane) for lane in signals.lanes if lane in ready):
        return alone, True
    states = ", ".join(f"{lane} {snapshot.state}" for lane, snapshot in signals.lanes.items())
    raise NoLane(f"no lane is ready ({states}); retry in a few seconds")


class _Turns:
    """Round robin over a set of pairs that changes from one choice to the next."""

    def __init__(self) -> None:
        self._chosen_at: dict[Pair, int] = {}
        self._choices = 0

    def take(self, pairs: Sequence[Pair]) -> Pair:
        pair = min(pairs, key=lambda pair: self._chosen_at.get(pair, 0))
        self._choices += 1
        self._chosen_at[pair] = self._choices
        return pair
