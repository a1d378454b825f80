"""LaneTable: the signals of all lanes as vectors, gathered once per decision."""

from dataclasses import dataclass

import numpy as np

from streamserve.flowguard.knots import Knots
from streamserve.flowguard.pairs import Floats, Mask
from streamserve.signals import DepthMode, DeviceSignals, LaneLoad, LaneSignals, Signals, StepCost
from streamserve.types import LaneId

IDLE = LaneLoad()
TRANSFER_S = 0.005
"""Time that KV takes to the other lane, until a lane has reported its own."""
MOST_VERIFIED = 33.0
WARM_CELSIUS, HOT_CELSIUS = 75.0, 90.0
"""Where a GPU nears its throttling point, and where it surely is throttled."""


@dataclass(slots=True, eq=False)
class LaneVectors:
    """One entry per lane, in the order of the signals; written once, by `LaneTable`."""

    lanes: tuple[LaneId, ...]
    prefill_requests: Floats
    """Own counts: never stale."""
    prefill_tokens: Floats
    decode_requests: Floats
    decoding: Floats
    """Requests that decode, or will: the own count, or the engine's where it is fresh and higher."""
    waiting: Floats
    """Requests whose prompts wait: the own count, or the engine's where it is fresh and higher."""
    reported_waiting: Floats
    """As the engine said last, however long ago."""
    reported_running: Floats
    age_s: Floats
    kv_used: Floats
    kv_per_token: Floats
    """Share of the KV cache that one token takes, 0 = not known."""
    prefill_token_s: Floats
    transfer_s: Floats
    """Mean time of fetching KV."""
    step_output: Floats
    pressure: Floats
    tpot_s: Floats
    """Seconds per output token as things are."""
    tpot_one_more_s: Floats
    """The same with one more request in the batch."""
    step_s: Floats
    """Seconds of a step without prompt tokens."""
    snapshots: tuple[LaneSignals, ...]
    restarted: tuple[LaneId, ...]
    """Lanes that have restarted since the last look."""

    @property
    def own_requests(self) -> Floats:
        return self.prefill_requests + self.decode_requests

    def batch(self) -> Floats:
        """Requests on each lane, of either kind."""
        return self.prefill_requests + self.decoding


class LaneTable:
    """Turns signals into vectors; a snapshot that was seen before costs next to nothing.

    stale_s: what an engine said longer ago than this counts for less than our own counts.
    """

    def __init__(self, stale_s: float = 2.0) -> None:
        self._stale_s = stale_s
        self._lanes: tuple[LaneId, ...] = ()
        self._seen: list[LaneSignals] = []
        self._rows: list[tuple[float, ...]] = []
        self._columns: Floats = np.zeros((10, 0))
        self._drafting: tuple[Floats, Floats, Mask] = (np.zeros(0), np.zeros(0), np.zeros(0, bool))
        self._knots = Knots()

    def read(self, signals: Signals) -> LaneVectors:
        """The vectors of these signals; what is missing or not a number counts as 0."""
        lanes = tuple(signals.lanes)
        restarted = self._refresh(lanes, list(signals.lanes.values()))
        at_s, running, waiting, kv_used, kv_per_token, step_output, pressure, transfer_s = self._columns[:8]
        load = [signals.load.get(lane, IDLE) for lane in lanes]
        own = np.array([(one.prefill_requests, one.prefill_tokens, one.decode_requests) for one in load], float)
        prefill_requests, prefill_tokens, decode_requests = own.T
        age_s = signals.at_s - at_s
        fresh = age_s <= self._stale_s
        # Nothing that an engine said long ago counts: not even that it is idle.
        decoding = np.maximum(decode_requests, (running - prefill_requests) * fresh)
        tpot_s, tpot_one_more_s, step_s = self._pace(decoding)
        return LaneVectors(
            lanes,
            prefill_requests,
            prefill_tokens,
            decode_requests,
            decoding,
            np.maximum(prefill_requests, waiting * fresh),
            waiting,
            running,
            age_s,
            kv_used,
            kv_per_token,
            self._knots.prefill_token_s,
            transfer_s,
            step_output,
            pressure,
            tpot_s,
            tpot_one_more_s,
            step_s,
            tuple(self._seen),
            restarted,
        )

    def _refresh(self, lanes: tuple[LaneId, ...], snapshots: list[LaneSignals]) -> tuple[LaneId, ...]:
        if lanes != self._lanes:
            self._lanes = lanes
            self._seen = snapshots
            self._rows = [_row(snapshot) for snapshot in snapshots]
            self._tabulate()
            return ()
        changed = [place for place, snapshot in enumerate(snapshots) if snapshot is not self._seen[place]]
        if not changed:
            return ()
        restarted = tuple(lanes[place] for place in changed if snapshots[place].restarts != self._seen[place].restarts)
        self._seen = snapshots
        for place in changed:
            self._rows[place] = _row(snapshots[place])
        self._tabulate()
        return restarted

    def _tabulate(self) -> None:
        costs = _costs(self._seen)
        self._knots.refresh(costs, [snapshot.at_s for snapshot in self._seen])
        table = np.array(self._rows, float)
        if not np.isfinite(table).all():
            table = np.nan_to_num(table, posinf=0.0, neginf=0.0)
        self._columns = table.T
        self._drafting = table[:, 8], table[:, 5], table[:, 9] > 0
        transfer_s = table[:, 7]
        if (transfer_s < 0).any():
            known = transfer_s >= 0
            transfer_s[~known] = transfer_s[known].mean() if known.any() else TRANSFER_S

    def _pace(self, decoding: Floats) -> tuple[Floats, Floats, Floats]:
        """Seconds per output token now and with one more request, and of a step now."""
        requests = np.maximum(1.0, decoding)
        verified, gained, adaptive = self._drafting
        more = requests + 1.0
        now_s, more_s, step_s, step_more_s = self._knots.step_s(
            np.array((requests, more, requests * verified, more * verified))
        )
        drafting_s, drafting_more_s = step_s / gained, step_more_s / gained
        # A lane that chooses its depth does not speculate where that costs more than it gains.
        tpot_s = np.where(adaptive, np.minimum(drafting_s, now_s), drafting_s)
        tpot_more_s = np.where(adaptive, np.minimum(drafting_more_s, more_s), drafting_more_s)
        step_s = np.where(adaptive & (drafting_s > now_s), now_s, step_s)
        return tpot_s, np.maximum(tpot_s, tpot_more_s), step_s


def _row(lane: LaneSignals) -> tuple[float, ...]:
    transfer_s = lane.transfer_s.slow_s
    return (
        lane.at_s,
        lane.running,
        lane.waiting,
        lane.kv_used,
        1.0 / lane.kv_tokens if lane.kv_tokens > 0 else 0.0,
        max(1.0, lane.step_output),
        _pressure(lane.device),
        -1.0 if transfer_s is None else transfer_s,
        _verified(lane),
        lane.depth is None or lane.depth.mode is not DepthMode.FIXED,
    )


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


def _costs(snapshots: list[LaneSignals]) -> list[StepCost]:
    """Each lane's step cost; where it is only a guess, that of the median lane among those that have learned theirs."""
    costs = [snapshot.cost for snapshot in snapshots]
    learned = [cost for cost in costs if cost.steps > 0]
    if len(learned) in (0, len(costs)):
        return costs
    learned.sort(key=lambda cost: cost.step_s(64, 4))
    typical = learned[len(learned) // 2]
    return [cost if cost.steps > 0 else typical for cost in costs]


def _verified(lane: LaneSignals) -> float:
    """Tokens that a step verifies per decoding request: one, and the drafts behind those that are accepted."""
    if lane.accepted_tokens_total <= 0 or lane.step_output <= 1.0:
        return 1.0
    drafted = (lane.step_output - 1.0) * lane.draft_tokens_total / lane.accepted_tokens_total
    return min(MOST_VERIFIED, 1.0 + drafted)
