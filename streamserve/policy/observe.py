"""Observing a routing decision: the numbers of `layout`, gathered from FlowGuard's assessment."""

import math
from collections.abc import Sequence
from operator import is_
from struct import Struct

import numpy as np

from streamserve.flowguard.assessment import Assessment, Place, View
from streamserve.policy import kernels
from streamserve.policy.columns import TINY, Columns, Floats, Observed
from streamserve.policy.lane_columns import UNCAPPED, control, drafts, trends
from streamserve.policy.layout import CONTEXT, PAIRS, REQUEST
from streamserve.policy.rhythm import Beat
from streamserve.signals import LaneSignals, Signals

Numbers = tuple[float, ...]

BEFORE_CROWD, AFTER_CROWD = 9, 2
"""Numbers of the context before and after those that all lanes make up."""
PACKED_LANE = Struct(f"{kernels.OWN_COLUMNS}d")
PACKED_REQUEST = Struct(f"{len(REQUEST) + BEFORE_CROWD}d")
PACKED_END = Struct(f"{AFTER_CROWD}d")
"""Put a few numbers into an array several times faster than numpy itself."""


class Observer:
    """Gathers observations, with its buffers: one caller at a time."""

    def __init__(self) -> None:
        kernels.prepare()
        self._snapshots: tuple[LaneSignals, ...] = ()
        self._own = np.empty((0, kernels.OWN_COLUMNS))
        self._frames: dict[int, Frame] = {}
        """By the number of pairs."""

    def observe(
        self, assessment: Assessment, places: Sequence[Place], heuristic: int, signals: Signals, beat: Beat
    ) -> tuple[Observed, Observed, Observed]:
        """The pairs at these places (N, F), the request (R,) and the context (C,), as they are observed.

        heuristic: the index of FlowGuard's own choice in `places`. The arrays are the caller's to keep.
        """
        view, count = assessment.view, len(places)
        frame = self._frames.get(count)
        if frame is None:
            frame = self._frames[count] = Frame(count)
        table, forecast, block = view.lanes, view.forecast, view.block
        lanes = (table.numbers, self._lanes(table.snapshots), table.silent_s, assessment.doubts.suspects)
        predicted = (
            forecast.uncached_tokens,
            forecast.tpot_s,
            forecast.ttft_s,
            forecast.e2e_s,
            forecast.cost_s,
            assessment.total,
        )
        chosen = (block.prefill, block.decode, np.array(places, np.int64), heuristic)
        kernels.observe(lanes, predicted, chosen, _asked(view), frame.pairs)
        kernels.crowd(table.numbers, frame.crowd)
        before, after = _context(assessment, signals, beat)
        PACKED_REQUEST.pack_into(frame.bytes, frame.request_at, *_request(view), *before)
        PACKED_END.pack_into(frame.bytes, frame.end_at, *after)
        return frame.observed()

    def _lanes(self, snapshots: tuple[LaneSignals, ...]) -> Floats:
        """The numbers of each lane that FlowGuard's table does not have; made anew where a lane has reported."""
        known = self._snapshots
        if len(snapshots) != len(known):
            self._own = np.empty((len(snapshots), kernels.OWN_COLUMNS))
            known = ()
        elif all(map(is_, snapshots, known)):
            return self._own
        packed = self._own.data
        for place, snapshot in enumerate(snapshots):
            if not known or snapshot is not known[place]:
                PACKED_LANE.pack_into(packed, PACKED_LANE.size * place, *_lane(snapshot))
        self._snapshots = snapshots
        return self._own


class Frame:
    """Room for the raw numbers of an observation of so many pairs, one after another: pairs, request, context."""

    def __init__(self, pairs: int) -> None:
        columns = Columns((*PAIRS.columns * pairs, *REQUEST.columns, *CONTEXT.columns))
        self._scales = columns.scales
        self._raw = np.zeros(len(columns))
        self._pairs_end = end = pairs * len(PAIRS)
        self._request_end = end + len(REQUEST)
        self.pairs = self._raw[:end].reshape(pairs, -1)
        self.bytes = self._raw.data
        self.request_at = end * self._raw.itemsize
        """In bytes, where the request and what of the context comes before `crowd` begin."""
        crowd = self._request_end + BEFORE_CROWD
        self.crowd = self._raw[crowd : crowd + kernels.CROWD_COLUMNS]
        self.end_at = (crowd + kernels.CROWD_COLUMNS) * self._raw.itemsize

    def observed(self) -> tuple[Observed, Observed, Observed]:
        """Pairs, request and context in an array of their own."""
        seen = np.empty(len(self._raw), np.float32)
        kernels.transform(self._raw, self._scales, seen)
        end = self._pairs_end
        return seen[:end].reshape(self.pairs.shape), seen[end : self._request_end], seen[self._request_end :]


def _lane(lane: LaneSignals) -> Numbers:
    return (lane.max_running, lane.cost.decode_s[0][1], *control(lane.depth), *drafts(lane), *trends(lane))


def _asked(view: View) -> kernels.Asked:
    ttft_s, tpot_s = view.request.slo.ttft_s, view.request.slo.tpot_s
    return (
        float(view.request.prompt_tokens),
        math.inf if ttft_s is None else max(TINY, ttft_s - view.waited_s),
        math.inf if tpot_s is None else tpot_s,
    )


def _request(view: View) -> Numbers:
    asked = view.request
    ttft_s, tpot_s = asked.slo.ttft_s, asked.slo.tpot_s
    return (
        asked.prompt_tokens,
        asked.max_tokens,
        view.forecast.expected_tokens,
        view.waited_s,
        ttft_s is not None,
        ttft_s or 0.0,
        1.0 - view.waited_s / max(TINY, ttft_s) if ttft_s is not None else 0.0,
        tpot_s is not None,
        tpot_s or 0.0,
        asked.splittable,
        asked.continuable,
        UNCAPPED if asked.max_depth is None else asked.max_depth,
        asked.priority,
    )


def _context(assessment: Assessment, signals: Signals, beat: Beat) -> tuple[Numbers, Numbers]:
    """What of the context is no sum or extreme over the lanes: the numbers before those, and after."""
    count, doubts = len(assessment.view.lanes.lanes), assessment.doubts
    before = (
        signals.queued,
        beat.fast_per_s / count,
        beat.slow_per_s / count,
        beat.gap_s,
        count,
        sum(map(signals.ready, signals.lanes)) / count,
        doubts.suspects.tolist().count(True) / count if doubts.some else 0.0,
        1.0 if signals.room is None else len(signals.room) / count,
        int(np.count_nonzero(assessment.view.mask)),
    )
    return before, (assessment.degraded, assessment.probed is not None)
