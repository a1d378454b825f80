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
    """What a prefill hop returns: the first token and, unless it ended the sequence, the KV to continue from."""

    chunk: Chunk
    kv: KVHandle | None


@dataclass(frozen=True, slots=True)
class LaneSignals:
    """A timestamped snapshot of one lane, as its engine last reported it."""

    lane: LaneId
    state: LaneState
    at_s: float
    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    """Share of the KV blocks in use, 0..1."""
    prefix_hit: float = 0.0
    """Share of the queried prompt tokens found in the prefix cache since start, 0..1."""
    steps: int = 0
    prompt_tokens_total: int = 0
    """Prompt tokens computed on this lane: neither cached nor fetched from another."""
    output_tokens_total: int = 0
    restarts: int = 0
    pid: int | None = None
    error: str | None = None
    """Why the lane is not ready, in one line."""


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """Work that the scheduler has dispatched to a lane and not yet seen finished: never stale."""

    prefill_requests: int = 0
    prefill_tokens: int = 0
    decode_requests: int = 0

    @property
    def requests(self) -> int:
        return self.prefill_requests + self.decode_requests


@dataclass(frozen=True, slots=True)
class Signals:
    """What a router sees: every lane's snapshot, the scheduler's own counts, and the queue."""

    at_s: float
    lanes: Mapping[LaneId, LaneSignals]
    load: Mapping[LaneId, LaneLoad]
    queued: int = 0

    def ready(self, lane: LaneId) -> bool:
        return self.lanes[lane].state is LaneState.READY


@dataclass(frozen=True, slots=True)
class Decision:
    """A stream pair for one request, and why."""

    prefill: LaneId
    decode: LaneId
    router: str
    reason: str
    scores: Mapping[str, float] = field(default_factory=dict)

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
