"""What policies see and set: every lane's snapshot, the scheduler's own counts, and the control of a lane's depth.

All instants are seconds of the running event loop's clock (`streamserve.clock.now`).
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter

from streamserve.types import LaneId, LaneState


class DepthMode(StrEnum):
    """How a lane chooses the depth of each running request."""

    OFF = "off"
    FIXED = "fixed"
    """The same depth for every request."""
    TARGET_ACCEPTANCE = "target_acceptance"
    """The deepest at which a draft token is still accepted with at least the target probability."""
    SPECUSTREAM = "specustream"
    """The depths of best goodput, given what a step costs and how likely each draft token is accepted."""


@dataclass(frozen=True, slots=True)
class DepthControl:
    """What a policy sets on a lane; the lane applies it from its next step on."""

    mode: DepthMode = DepthMode.SPECUSTREAM
    depth: int = 0
    """Mode `FIXED`: draft tokens per request and step."""
    target: float = 0.5
    """Mode `TARGET_ACCEPTANCE`: the least probability that a draft token is accepted."""
    price: float = 1.0
    """Mode `SPECUSTREAM`: how dear a step's time is; 1 = best goodput, above = shallower, below = deeper."""
    max_depth: int | None = None
    """No request goes deeper, in any mode; None = as deep as the lane drafts."""


LEAST_CHUNK_TOKENS = 64
"""Of a prompt beside decodes, however long they stall: many steps for few tokens help nobody."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step of a lane costs: a piecewise linear t(V) in decode tokens, and a price per prompt token on top.

    V counts what a step verifies: one token per decoding request and its draft tokens.
    """

    decode_s: tuple[tuple[int, float], ...] = ((1, 0.03), (64, 0.2))
    """Knots (V, seconds), rising in both; straight on beyond the last."""
    prefill_token_s: float = 0.001
    steps: int = 0
    """Steps it was learned from; 0 = a guess."""

    def decode_step_s(self, tokens: float) -> float:
        """Seconds of a step that verifies this many tokens and prefills none."""
        knots = self.decode_s
        if tokens <= knots[0][0] or len(knots) == 1:
            return knots[0][1]
        place = min(bisect_left(knots, (tokens,)), len(knots) - 1)
        (low, low_s), (high, high_s) = knots[place - 1], knots[place]
        return low_s + (high_s - low_s) * (tokens - low) / (high - low)

    def step_s(self, prefill_tokens: float, decode_tokens: float) -> float:
        """Seconds of a mixed step."""
        return self.decode_step_s(decode_tokens) + self.prefill_token_s * prefill_tokens

    def chunk_tokens(self, decode_tokens: float, stall_s: float | None, most: int) -> int:
        """Prompt tokens of a step that shall stall the decodes in it for `stall_s` at most, None = as long as it takes.

        most: what fits into the step in any case.

        As in Sarathi-Serve (arXiv 2403.02310), with what a token costs here and now instead of a fixed budget.
        """
        if stall_s is None or not decode_tokens or not self.steps or self.prefill_token_s <= 0:
            return most
        room_s = stall_s - self.decode_step_s(decode_tokens)
        return min(most, max(LEAST_CHUNK_TOKENS, int(room_s / self.prefill_token_s)))


@dataclass(frozen=True, slots=True)
class Averages:
    """Moving averages of one latency at two time constants; None before the first sample."""

    fast_s: float | None = None
    slow_s: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceSignals:
    """How hard a lane's process and, where it has one, its GPU work; None = not known."""

    at_s: float = 0.0
    cpu_cores: float | None = None
    """Cores that the lane's process used since the last look."""
    rss_bytes: int | None = None
    gpu_memory_used: float | None = None
    """Share of the device's memory in use, 0..1."""
    gpu_busy: float | None = None
    """Share of the last period in which a kernel ran, 0..1."""
    gpu_celsius: float | None = None


@dataclass(frozen=True, slots=True)
class LaneSignals:
    """A timestamped snapshot of one lane, as its engine last reported it."""

    lane: LaneId
    state: LaneState
    at_s: float
    """When the engine reported; a busy engine reports at every step, an idle one does not report at all."""
    running: int = 0
    waiting: int = 0
    max_running: int = 64
    """Requests that fit into one batch."""
    max_step_tokens: int = 2048
    """Tokens of one step; a longer prompt takes several, between which the others decode."""
    stall_s: float | None = None
    """The longest step that prompts may make while others decode, see `StepCost.chunk_tokens`; None = any."""
    kv_used: float = 0.0
    """Share of the KV blocks in use, 0..1."""
    kv_tokens: int = 0
    """Tokens that all KV blocks hold together; 0 = not known."""
    block_tokens: int = 16
    """Tokens of one KV block, the unit of prefix caching."""
    prefix_hit: float = 0.0
    """Share of the queried prompt tokens found in the prefix cache since start, 0..1."""
    prefill_queued_tokens: int = 0
    """Prompt tokens that the engine has accepted and not computed yet."""
    step_s: float = 0.0
    """Moving average of the time of a step."""
    step_tokens: int = 0
    """Tokens that the last step computed: prompt, decode and draft tokens."""
    output_tokens_per_s: float = 0.0
    """Moving average while the lane works."""
    cost: StepCost = StepCost()
    steps: int = 0
    prompt_tokens_total: int = 0
    """Prompt tokens computed on this lane: neither cached nor fetched from another."""
    output_tokens_total: int = 0
    draft_tokens_total: int = 0
    """Draft tokens verified."""
    accepted_tokens_total: int = 0
    acceptance: tuple[float, ...] = ()
    """Per draft position, the lane's estimate that it is accepted if all before it were, 0..1."""
    step_output: float = 1.0
    """Moving average of the tokens that a decoding request gains per step: 1 + accepted draft tokens."""
    depth: DepthControl | None = None
    """The control in force; None on a lane that does not speculate."""
    transfer_s: Averages = Averages()
    """Time that fetching a prompt's KV from another lane took."""
    transfers_total: int = 0
    ttft_s: Averages = Averages()
    """Of requests whose prompt was computed here, from their arrival at the front."""
    tpot_s: Averages = Averages()
    """Of requests decoded here."""
    device: DeviceSignals = DeviceSignals()
    restarts: int = 0
    pid: int | None = None
    error: str | None = None
    """Why the lane is not ready, in one line."""


_NAMES = [each.name for each in fields(LaneSignals)]
_before_latencies = attrgetter(*_NAMES[: _NAMES.index("ttft_s")])
_after_latencies = attrgetter(*_NAMES[_NAMES.index("tpot_s") + 1 :])


def with_latencies(snapshot: LaneSignals, ttft_s: Averages, tpot_s: Averages) -> LaneSignals:
    """The snapshot with these two, as `dataclasses.replace` makes it, in a third of the time: it has forty fields."""
    values = [*_before_latencies(snapshot), ttft_s, tpot_s, *_after_latencies(snapshot)]
    return LaneSignals(*values)


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """Work that the scheduler has dispatched to a lane and not yet seen finished: never stale."""

    prefill_requests: int = 0
    prefill_tokens: int = 0
    decode_requests: int = 0
    awaited_requests: int = 0
    """Of the decode requests, those whose prompt another lane computes: nothing that this engine has yet."""
    given_s: float = field(default=0.0, compare=False)
    """When its engine was given something last."""

    @property
    def requests(self) -> int:
        return self.prefill_requests + self.decode_requests

    @property
    def owed(self) -> int:
        """Parts of requests that its engine has."""
        return self.requests - self.awaited_requests


@dataclass(frozen=True, slots=True)
class Signals:
    """What a router sees: every lane's snapshot, the scheduler's own counts, and the queue."""

    at_s: float
    lanes: Mapping[LaneId, LaneSignals]
    load: Mapping[LaneId, LaneLoad]
    queued: int = 0
    room: frozenset[LaneId] | None = None
    """Lanes that should be given another prompt now, None = all: elsewhere it waits better in our own queue."""

    def ready(self, lane: LaneId) -> bool:
        return self.lanes[lane].state is LaneState.READY
