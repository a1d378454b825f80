"""Reward: what the requests in the system cost, as it accrues.

    r = -(1/Z) * [ integral of (w_ttft * N_p + w_decode * N_d) dt + w_slo * V + w_failure * F ]

between two decisions, with N_p requests that have no token yet, N_d requests that decode, V deadlines that passed and
F failures. The integral of the number in the system is the sum of their times in it, so over a drained episode the
rewards sum to the latencies of its requests, exactly (the reward of Park's load balancing, arXiv 1807.02264).
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

import msgspec

from envs.expectation import chance
from streamserve.types import Request, Result, Slo


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a unit of each cost counts for, and what all is divided by."""

    ttft: float = 1.0
    """Of a second of a request before its first token."""
    decode: float = 1.0
    """Of a second of a request after it."""
    slo: float = 1.0
    """Of a deadline that passed: time to first token, or time per output token."""
    failure: float = 30.0
    """Of a request that ended otherwise than by itself; it must outweigh the seconds that its early end saves."""
    scale: float = 1.0
    """Z; the heuristic's mean cost per decision makes its rewards about -1."""


class Cost(NamedTuple):
    """What has accrued over some time, without weights."""

    ttft_s: float = 0.0
    decode_s: float = 0.0
    slo: int = 0
    failures: int = 0

    def plus(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(
            self.ttft_s + other.ttft_s,
            self.decode_s + other.decode_s,
            self.slo + other.slo,
            self.failures + other.failures,
        )

    def reward(self, weights: Weights) -> float:
        """The negative weighted sum."""
        seconds = weights.ttft * self.ttft_s + weights.decode * self.decode_s
        return -(seconds + weights.slo * self.slo + weights.failure * self.failures) / weights.scale


@dataclass(slots=True)
class _Open:
    arrived_s: float
    slo: Slo
    max_tokens: int
    first_s: float | None = None
    missed_ttft: bool = False
    missed_tpot: bool = False
    ttft_chance: float = 0.0
    tpot_chance: float = 0.0
    """That it misses either, once it is routed."""
    expected_missed: float = 0.0
    """Deadlines to be booked yet."""

    def expect(self) -> None:
        """Reckon anew; all of them are added up at every decision, and few have changed."""
        ttft = 0.0 if self.missed_ttft or self.first_s is not None else self.ttft_chance
        self.expected_missed = ttft if self.missed_tpot else ttft + self.tpot_chance


class Ledger:
    """Counts the requests in the system, and books each at the instant that its latency is counted from.

    Instants may lie before the last `settle`, as a live lane's may: what was booked too much is taken back.
    """

    def __init__(self, start_s: float) -> None:
        self.arrivals = 0
        self._at_s = start_s
        self._open: dict[str, _Open] = {}
        self._deadlines: list[tuple[float, str, bool]] = []
        """Instant, request, whether it is that of its first token."""
        self._waiting = 0
        self._decoding = 0
        self._ttft_s = 0.0
        self._decode_s = 0.0
        self._missed = 0
        self._failures = 0

    @property
    def at_s(self) -> float:
        """When it was settled last."""
        return self._at_s

    @property
    def in_system(self) -> int:
        """Requests that arrived and did not end."""
        return self._waiting + self._decoding

    @property
    def expected_missed(self) -> float:
        """Deadlines that requests in the system will miss, as `expect` was told, beside those that are booked."""
        return sum([each.expected_missed for each in self._open.values()])

    def arrived(self, request: Request, slo: Slo) -> None:
        """A request counts from its arrival on. slo: what it is held to."""
        self.arrivals += 1
        self._open[request.id] = _Open(request.arrived_s, slo, request.max_tokens)
        self._waiting += 1
        self._ttft_s += self._at_s - request.arrived_s
        if slo.ttft_s is not None:
            heappush(self._deadlines, (request.arrived_s + slo.ttft_s, request.id, True))

    def expect(self, request_id: str, ttft_s: float, tpot_s: float) -> None:
        """What is predicted of a request where it is sent; its time to first token counts from its arrival."""
        known = self._open.get(request_id)
        if known is not None:
            known.ttft_chance = chance(ttft_s, known.slo.ttft_s)
            known.tpot_chance = chance(tpot_s, known.slo.tpot_s if known.max_tokens > 1 else None)
            known.expect()

    def first_token(self, request_id: str, at_s: float) -> None:
        """It decodes from then on; does nothing when it has ended, as it has with its only piece of output."""
        known = self._open.get(request_id)
        if known is not None and known.first_s is None:
            self._begin_decode(request_id, known, at_s)

    def ended(self, result: Result) -> None:
        """It is no longer in the system; does nothing for a request that never arrived."""
        known = self._open.pop(result.request_id, None)
        if known is None:
            return
        by_itself = result.finish.by_itself
        if known.first_s is None and result.first_token_s is not None:
            self._begin_decode(result.request_id, known, result.first_token_s)
        if known.first_s is None:
            self._waiting -= 1
            self._ttft_s -= self._at_s - result.finished_s
            self._judge_ttft(known, result.finished_s)
        else:
            self._decoding -= 1
            self._decode_s -= self._at_s - result.finished_s
            self._judge_tpot(known, result, by_itself)
        self._failures += not by_itself

    def settle(self, at_s: float) -> Cost:
        """What has accrued since the last time."""
        elapsed_s = at_s - self._at_s
        self._ttft_s += elapsed_s * self._waiting
        self._decode_s += elapsed_s * self._decoding
        self._at_s = at_s
        while self._deadlines and self._deadlines[0][0] <= at_s:
            _, request_id, of_first = heappop(self._deadlines)
            known = self._open.get(request_id)
            if known is None:
                continue
            if of_first and known.first_s is None and not known.missed_ttft:
                known.missed_ttft = True
                self._missed += 1
            elif not of_first and not known.missed_tpot:
                known.missed_tpot = True
                self._missed += 1
            known.expect()
        cost = Cost(self._ttft_s, self._decode_s, self._missed, self._failures)
        self._ttft_s = self._decode_s = 0.0
        self._missed = self._failures = 0
        return cost

    def _begin_decode(self, request_id: str, known: _Open, at_s: float) -> None:
        known.first_s = at_s
        self._waiting -= 1
        self._decoding += 1
        self._ttft_s -= self._at_s - at_s
        self._decode_s += self._at_s - at_s
        self._judge_ttft(known, at_s)
        known.expect()
        if known.slo.tpot_s is not None and known.max_tokens > 1:
            # Later than this the budget is broken, however many tokens it still makes.
            heappush(self._deadlines, (at_s + known.slo.tpot_s * (known.max_tokens - 1), request_id, False))

    def _judge_ttft(self, known: _Open, at_s: float) -> None:
        if known.slo.ttft_s is not None:
            missed = at_s - known.arrived_s > known.slo.ttft_s
            self._missed += missed - known.missed_ttft
            known.missed_ttft = missed

    def _judge_tpot(self, known: _Open, result: Result, by_itself: bool) -> None:
        budget_s = known.slo.tpot_s
        if budget_s is None or known.first_s is None:
            return
        if by_itself:
            missed = result.tpot_s is not None and result.tpot_s > budget_s
        else:
            missed = result.finished_s - known.first_s > budget_s * max(1, known.max_tokens - 1)
        self._missed += missed - known.missed_tpot
        known.missed_tpot = missed
