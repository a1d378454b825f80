"""LaneTable: the signals of all lanes as vectors, gathered once per decision."""

import math
from dataclasses import dataclass, fields
from operator import is_
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamserve.flowguard.pairs import Floats
from streamserve.signals import DepthMode, DeviceSignals, LaneLoad, LaneSignals, Signals, StepCost
from streamserve.types import LaneId

IDLE = LaneLoad()
TRANSFER_S = 0.005
"""Time that KV takes to the other lane, until a lane has reported its own."""
UNKNOWN = -1.0
MOST_VERIFIED = 33.0
GAIN_STEP = 0.03
"""Relative change of the tokens per step from which on every lane's row is made anew."""
WARM_CELSIUS, HOT_CELSIUS = 75.0, 90.0
"""Where a GPU nears its throttling point, and where it surely is throttled."""


@dataclass(slots=True, eq=False)
class LaneVectors:
    """One entry per lane, in the order of the signals; views into the `LaneTable`, good until its next read."""

    lanes: tuple[LaneId, ...]
    snapshots: tuple[LaneSignals, ...]
    restarted: tuple[LaneId, ...]
    """Lanes that have restarted since the last look."""
    silent_s: Floats
    """How long each lane has had work and said nothing; far below 0 where it has no work."""
    numbers: "LaneNumbers"
    """The table itself, whose columns are what follows."""
    heard_s: Floats
    """When its silence began."""
    own_transfer_s: Floats
    """Mean time of fetching KV, `UNKNOWN` until a lane has fetched some."""
    prefill_tokens: Floats
    """Own counts, here and where not said otherwise: never stale."""
    decode_requests: Floats
    own_requests: Floats
    decoding: Floats
    """Requests that decode, or will: the own count, or the engine's where it is fresh and higher."""
    batch: Floats
    """Those, and the requests whose prompts are computed or wait."""
    half_batch: Floats
    waiting: Floats
    """Requests whose prompts wait: the own count, or the engine's where it is fresh and higher."""
    reported_waiting: Floats
    """As the engine said last, however long ago."""
    reported_running: Floats
    kv_used: Floats
    kv_free: Floats
    kv_per_token: Floats
    """Share of the KV cache that one token takes, 0 = not known."""
    prefill_token_s: Floats
    step_s: Floats
    """Seconds of a step without prompt tokens."""
    longest_step_s: Floats
    """Seconds of a step with all the prompt tokens that it may have now: until its end an engine says nothing."""
    step_share: Floats
    """Steps that one prompt token is, in a queue of many."""
    step_wait: Floats
    """Steps to wait for the next to begin: half a one where requests decode."""
    step_output: Floats
    tpot_one_more_s: Floats
    """Seconds per output token with one more request in the batch."""
    slower_s: Floats
    """Seconds that one more request costs those that decode, together, for each token they make."""
    pressure: Floats
    """How near a limit the device is, 0..1."""
    spare: Floats
    """How far from it."""
    transfer_s: Floats
    """Mean time of fetching KV; where a lane has fetched none yet, that of the others."""


LaneNumbers = NDArray[np.void]
"""One `LANE` per lane."""
NUMBERS = tuple(field.name for field in fields(LaneVectors)[5:])
LANE = np.dtype([(name, np.float64) for name in NUMBERS], align=True)
"""A lane's row."""


def _blank(lanes: tuple[LaneId, ...]) -> LaneVectors:
    numbers = np.zeros(len(lanes), LANE)
    columns = {name: numbers[name] for name in NUMBERS}
    return LaneVectors(lanes, (), (), columns["heard_s"], numbers, **columns)


class _Source(NamedTuple):
    """All that a lane's row is made from."""

    snapshot: LaneSignals
    load: LaneLoad
    cost: StepCost
    fresh: bool
    busy_since_s: float
    """When it was first seen with work. An idle lane reports nothing: its silence counts from then on."""
    gained: float
    """Tokens per step and request that it is expected to make."""


class LaneTable:
    """Turns signals into vectors, one row of numbers per lane.

    A row is made anew only when something that it depends on is another object than before: at a handful of lanes,
    plain floats are faster than vectors of that length, and lanes that have not reported cost next to nothing.
    stale_s: what an engine said longer ago than this counts for less than our own counts.
    """

    def __init__(self, stale_s: float = 2.0) -> None:
        self._stale_s = stale_s
        self._snapshots: tuple[LaneSignals, ...] = ()
        self._typical: StepCost | None = None
        self._sources: list[_Source | None] = []
        self._vectors = _blank(())
        self._packed = self._vectors.numbers.data
        self._gained: dict[DepthMode, float] = {}

    def read(self, signals: Signals) -> LaneVectors:
        """The vectors of these signals; what is missing or not a number counts as 0."""
        lanes = tuple(signals.lanes)
        if lanes != self._vectors.lanes:
            self._sources = [None] * len(lanes)
            self._vectors = _blank(lanes)
            self._packed = self._vectors.numbers.data
        snapshots = tuple(signals.lanes.values())
        if len(snapshots) != len(self._snapshots) or not all(map(is_, snapshots, self._snapshots)):
            self._snapshots = snapshots
            self._typical = _typical_cost(snapshots)
            self._pool(snapshots)
        vectors = self._vectors
        vectors.snapshots = snapshots
        vectors.restarted = self._refresh(snapshots, signals)
        vectors.silent_s = signals.at_s - vectors.heard_s
        return vectors

    def _refresh(self, snapshots: tuple[LaneSignals, ...], signals: Signals) -> tuple[LaneId, ...]:
        """Make the rows anew that something changed for; the lanes that have restarted."""
        restarted: list[LaneId] = []
        changed = False
        typical, sources = self._typical, self._sources
        earliest_s = signals.at_s - self._stale_s
        load_of = signals.load.get
        for place, (snapshot, known) in enumerate(zip(snapshots, sources, strict=True)):
            load = load_of(snapshot.lane, IDLE)
            cost = snapshot.cost if typical is None or snapshot.cost.steps > 0 else typical
            fresh = snapshot.at_s >= earliest_s
            gained = self._gained.get(snapshot.depth.mode, 1.0) if snapshot.depth is not None else 1.0
            busy_since_s = signals.at_s
            if known is not None:
                same = known.snapshot is snapshot and known.load is load and known.cost is cost
                if same and known.fresh is fresh and known.gained == gained:
                    continue
                if known.snapshot.restarts != snapshot.restarts:
                    restarted.append(snapshot.lane)
                if known.load.owed:
                    busy_since_s = known.busy_since_s
            sources[place] = source = _Source(snapshot, load, cost, fresh, busy_since_s, gained)
            PACKED_ROW.pack_into(self._packed, LANE.itemsize * place, *_row(source))
            changed = True
        if changed:
            self._vectors.transfer_s[:] = _transfer_s(self._vectors.own_transfer_s)
        return tuple(restarted)

    def _pool(self, snapshots: tuple[LaneSignals, ...]) -> None:
        """Follow the tokens per step of all lanes of a mode together.

        What a step gains depends on the texts more than on the lane. A lane's own average is one of few steps, and
        among many lanes one always looks good by luck: it would be given everything.
        """
        gains: dict[DepthMode, list[float]] = {}
        for lane in snapshots:
            if lane.depth is not None and lane.accepted_tokens_total > 0 and math.isfinite(lane.step_output):
                gains.setdefault(lane.depth.mode, []).append(max(1.0, lane.step_output))
        for mode, each in gains.items():
            mean = sum(each) / len(each)
            if abs(mean / self._gained.get(mode, 1.0) - 1.0) > GAIN_STEP:
                self._gained[mode] = mean


PACKED_ROW = Struct(f"{len(NUMBERS) - 1}d")
"""Puts a few numbers into an array several times faster than numpy itself."""
NEVER_S = 1e12


def _row(source: _Source) -> tuple[float, ...]:
    lane, load, cost, fresh, busy_since_s, gained = source
    prefill_requests, decode_requests = load.prefill_requests, load.decode_requests
    requests = prefill_requests + decode_requests
    # Nothing that an engine said long ago counts: not even that it is idle.
    running, waiting = (lane.running, lane.waiting) if fresh else (0, 0)
    decoding = max(decode_requests, running - prefill_requests)
    step_s, tpot_s, tpot_one_more_s = _paces(lane, cost, gained, max(1, decoding))
    transfer_s = lane.transfer_s.slow_s
    batch = prefill_requests + decoding
    kv_used, pressure = _finite(lane.kv_used), _finite(_pressure(lane.device))
    # An engine that has said since it was given something that it has nothing is idle, even if a client reads slowly.
    idle = not load.owed or (lane.at_s > load.given_s and not (lane.running or lane.waiting))
    row = (
        NEVER_S if idle else max(lane.at_s, busy_since_s),
        UNKNOWN if transfer_s is None else transfer_s,
        load.prefill_tokens,
        decode_requests,
        requests,
        decoding,
        batch,
        0.5 * batch,
        max(prefill_requests, waiting),
        lane.waiting,
        lane.running,
        kv_used,
        1.0 - kv_used,
        1.0 / lane.kv_tokens if lane.kv_tokens > 0 else 0.0,
        max(0.0, cost.prefill_token_s),
        step_s,
        step_s + min(load.prefill_tokens, lane.max_step_tokens) * max(0.0, cost.prefill_token_s),
        1.0 / max(1, cost.chunk_tokens(decoding * gained, lane.stall_s, lane.max_step_tokens)),
        0.5 if decoding else 0.0,
        gained,
        tpot_one_more_s,
        (tpot_one_more_s - tpot_s) * decoding,
        pressure,
        1.0 - pressure,
    )
    # One test for all of them: whatever is not finite makes the sum so.
    return row if math.isfinite(sum(row)) else tuple(map(_finite, row))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _paces(lane: LaneSignals, cost: StepCost, gained: float, requests: int) -> tuple[float, float, float]:
    """With so many requests decoding: seconds of a step, per output token, and per output token with one more."""
    if gained <= 1.0:
        step_s, more_s = cost.decode_step_s(requests), cost.decode_step_s(requests + 1)
        return step_s, step_s, max(step_s, more_s)
    verified = _verified(lane, gained)
    step_s = cost.decode_step_s(requests * verified)
    more_s = cost.decode_step_s((requests + 1) * verified)
    tpot_s, tpot_more_s = step_s / gained, more_s / gained
    # A lane that chooses its depth does not speculate where that costs more than it gains.
    if verified > 1.0 and (lane.depth is None or lane.depth.mode is not DepthMode.FIXED):
        plain_s, plain_more_s = cost.decode_step_s(requests), cost.decode_step_s(requests + 1)
        if plain_s < tpot_s:
            step_s = tpot_s = plain_s
        tpot_more_s = min(tpot_more_s, plain_more_s)
    return step_s, tpot_s, max(tpot_s, tpot_more_s)


def _transfer_s(reported_s: Floats) -> Floats:
    """Each lane's mean transfer time; where it has none yet, that of the others."""
    transfer_s = reported_s.tolist()
    if min(transfer_s) >= 0:
        return reported_s
    known = [value for value in transfer_s if value >= 0]
    typical = sum(known) / len(known) if known else TRANSFER_S
    return np.array([value if value >= 0 else typical for value in transfer_s])


def _pressure(device: DeviceSignals) -> float:
    """How near a limit the device is, 0..1: memory above 90 %, heat, and half for being busy.

    CPU time counts as busy up to one core: a lane that has its cores for itself always has one.
    """
    busy = min(1.0, device.cpu_cores or 0.0)
    if device.gpu_busy is None and device.gpu_memory_used is None and device.gpu_celsius is None:
        return 0.5 * busy
    memory = ((device.gpu_memory_used or 0.0) - 0.9) / 0.1
    heat = ((device.gpu_celsius or 0.0) - WARM_CELSIUS) / (HOT_CELSIUS - WARM_CELSIUS)
    return min(1.0, max(memory, heat, 0.5 * max(busy, device.gpu_busy or 0.0)))


def _typical_cost(snapshots: tuple[LaneSignals, ...]) -> StepCost | None:
    """What a lane that only guesses its step cost is taken for: the median lane that has learned; None if all have."""
    learned = [snapshot.cost for snapshot in snapshots if snapshot.cost.steps > 0]
    if len(learned) in (0, len(snapshots)):
        return None
    learned.sort(key=lambda cost: cost.step_s(64, 4))
    return learned[len(learned) // 2]


def _verified(lane: LaneSignals, gained: float) -> float:
    """Tokens that a step verifies per decoding request: one, and the drafts behind those that are accepted."""
    if lane.accepted_tokens_total <= 0:
        return 1.0
    drafted = (gained - 1.0) * lane.draft_tokens_total / lane.accepted_tokens_total
    return min(MOST_VERIFIED, 1.0 + drafted)
