"""The vocabulary: frozen values that flow down as arguments and up as results.

Nothing here knows vLLM. What a particular kind of lane needs travels as an opaque ``payload`` (on the way down)
or ``output`` (on the way up): only the API edge and that kind of lane look inside.
All instants are seconds of the running event loop's clock (`streamserve.clock.now`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType

LaneId = NewType("LaneId", str)


class LaneState(StrEnum):
    """Where a lane is in its life; only a `READY` lane is given work."""

    STARTING = "starting"
    READY = "ready"
    LOST = "lost"
    STOPPED = "stopped"


class Finish(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"

    @property
    def by_itself(self) -> bool:
        """Whether it came to its own end, and was neither ended by its client nor lost."""
        return self is Finish.STOP or self is Finish.LENGTH


@dataclass(frozen=True, slots=True)
class Slo:
    """Latencies that a request asks for; None = no wish."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    def over(self, default: "Slo") -> "Slo":
        """These wishes, and the default's where there is none."""
        return Slo(
            default.ttft_s if self.ttft_s is None else self.ttft_s,
            default.tpot_s if self.tpot_s is None else self.tpot_s,
        )


NO_SLO = Slo()


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate."""

    id: str
    prompt_token_ids: Sequence[int]
    max_tokens: int
    arrived_s: float
    payload: Any = None
    priority: int = 0
    continuable: bool = False
    """Whether an engine that is given the prompt and the tokens sent so far goes on exactly.

    Then the prefill lane's first token may be sent at once, and a request whose lane died may resume on another.
    False where the sampler keeps state about output tokens (seed, penalties, structured output, logprobs).
    """
    splittable: bool = True
    """Whether prefill and decode may be on two lanes; False where one engine must see all (logprobs of the prompt)."""
    slo: Slo = NO_SLO
    max_depth: int | None = None
    """The most draft tokens per step that the client allows, None = as the lane decides."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that one engine step produced for one request."""

    token_ids: Sequence[int]
    at_s: float
    finish: Finish | None = None
    output: Any = None
    lane: LaneId | None = None


@dataclass(frozen=True, slots=True)
class KVHandle:
    """Where the KV cache of a prefilled prompt lies; only the kind of lane that made it reads `params`."""

    lane: LaneId
    params: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a prefill hop returns: the first token, and the KV to continue from, or to release if that token ended all.

    kv: None where no KV is held.
    """

    chunk: Chunk
    kv: KVHandle | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a router expects of a request on a pair, from the moment it decides."""

    ttft_s: float
    tpot_s: float
    e2e_s: float
    cached_tokens: int = 0
    """Prompt tokens that the prefill lane need not compute."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that was considered."""

    prefill: LaneId
    decode: LaneId
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)
    prediction: Prediction | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A stream pair for one request, and why."""

    prefill: LaneId
    decode: LaneId
    router: str
    reason: str
    scores: Mapping[str, float] = field(default_factory=dict)
    prediction: Prediction | None = None
    candidates: tuple[Candidate, ...] = ()
    """The best of the pairs that were considered, best first; empty from routers that do not score."""
    max_depth: int | None = None
    """A cap on the request's depth, None = as the lane decides."""
    at_s: float = 0.0

    @property
    def disaggregated(self) -> bool:
        """Whether KV crosses lanes."""
        return self.prefill != self.decode


@dataclass(frozen=True, slots=True)
class Result:
    """The record of one finished request."""

    request_id: str
    decision: Decision | None
    prompt_tokens: int
    output_tokens: int
    arrived_s: float
    finished_s: float
    finish: Finish
    first_token_s: float | None = None
    attempts: int = 1
    error: str | None = None
    slo: Slo = NO_SLO
    priority: int = 0
    dispatched_s: float | None = None
    """When its last attempt left our queue for a lane."""
    lane_failed: bool = False
    """Whether a lane is to blame for the error, and not what was asked."""

    @property
    def e2e_s(self) -> float:
        return self.finished_s - self.arrived_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, None when none was produced."""
        return None if self.first_token_s is None else self.first_token_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first, as vLLM's benchmark defines it; None below two tokens."""
        if self.first_token_s is None or self.output_tokens < 2:
            return None
        return (self.finished_s - self.first_token_s) / (self.output_tokens - 1)

    @property
    def slo_met(self) -> bool:
        """Whether the request finished by itself and within every latency it asked for."""
        if not self.finish.by_itself:
            return False
        wishes = ((self.slo.ttft_s, self.ttft_s), (self.slo.tpot_s, self.tpot_s))
        return all(wish is None or got is None or got <= wish for wish, got in wishes)
