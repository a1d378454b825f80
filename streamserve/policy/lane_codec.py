"""LaneCodec: the lanes as arrays at a control tick, and actions as depth controls.

The observation is the Dict of `lanes` (L, F) and `context` (C,), float32; one action per lane is an index of a control.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamserve.errors import ConfigError
from streamserve.policy.columns import Column, Columns, Observed, amount, share
from streamserve.policy.controls import CONTROLS
from streamserve.policy.lane_columns import CONTROL, DRAFTS, TRENDS, control, drafts, trends
from streamserve.policy.question import Mask
from streamserve.policy.rhythm import Beat
from streamserve.policy.schema import fingerprint
from streamserve.signals import DepthControl, LaneSignals, Signals
from streamserve.types import LaneId

LANES_MOST = 8

LANES = Columns(
    (
        share("present"),
        share("ready"),
        amount("decode_requests"),
        amount("prefill_queued_tokens", 1 / 64),
        amount("running"),
        amount("waiting"),
        Column("batch_share", high=2.0),
        share("kv_used"),
        amount("step_s", 100.0),
        amount("step_1_s", 100.0),
        amount("step_8_s", 100.0),
        amount("step_32_s", 100.0),
        amount("output_tokens_per_s"),
        amount("age_s", 10.0),
        share("accepted_share"),
        *CONTROL,
        *DRAFTS,
        *TRENDS,
    )
)
"""One row per lane; `step_N_s` is what a step costs that verifies so many tokens."""

TICK = Columns(
    (
        amount("queued"),
        amount("fast_rate_per_lane", 10.0),
        amount("slow_rate_per_lane", 10.0),
        amount("lanes", 1 / 2),
        share("ready_share"),
        amount("requests_per_lane"),
    )
)
"""All lanes together."""


class LaneCodec:
    """Observations of the first `most_lanes` lanes; lanes beyond them keep their default control.

    Raises `ConfigError` on sizes that cannot be.
    """

    def __init__(self, most_lanes: int = LANES_MOST, controls: tuple[DepthControl, ...] = CONTROLS) -> None:
        if most_lanes < 1:
            raise ConfigError(f"most_lanes must be at least 1, got {most_lanes}")
        if not controls:
            raise ConfigError("controls: at least one is needed, the first is the heuristic")
        self.most_lanes = most_lanes
        self.controls = controls

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Array -> shape."""
        return {"lanes": (self.most_lanes, len(LANES)), "context": (len(TICK),)}

    def bounds(self) -> dict[str, tuple[Observed, Observed]]:
        """Array -> least and greatest values, of its shape."""
        rows = (self.most_lanes, 1)
        return {"lanes": (np.tile(LANES.low, rows), np.tile(LANES.high, rows)), "context": (TICK.low, TICK.high)}

    def schema(self) -> dict[str, Any]:
        """Everything that an observation's and an action's meaning depends on, in plain values."""
        controls = [
            {"mode": str(each.mode), "depth": each.depth, "price": each.price, "target": each.target}
            for each in self.controls
        ]
        shapes = {name: list(shape) for name, shape in self.shapes().items()}
        return {
            "format": 1,
            "shapes": shapes,
            "lanes": LANES.schema(),
            "context": TICK.schema(),
            "controls": controls,
        }

    def schema_hash(self) -> str:
        """SHA-256 of the schema."""
        return fingerprint(self.schema())

    def empty(self) -> dict[str, Observed]:
        """The observation of nothing, as after the end of an episode."""
        return {name: np.zeros(shape, np.float32) for name, shape in self.shapes().items()}

    def observe(self, signals: Signals, beat: Beat) -> dict[str, Observed]:
        """All lanes at one tick."""
        ids = list(signals.lanes)[: self.most_lanes]
        rows = [_lane(signals.lanes[lane], signals) for lane in ids]
        lanes = np.zeros(self.shapes()["lanes"], np.float32)
        if rows:
            lanes[: len(rows)] = LANES.apply(np.array(rows, np.float64))
        return {"lanes": lanes, "context": TICK.apply(np.array(_context(signals, beat), np.float64))}

    def mask(self, signals: Signals) -> Mask:
        """(L * K,): which controls each lane can be given; the first one always, so no lane is without."""
        mask: Mask = np.zeros((self.most_lanes, len(self.controls)), bool)
        mask[:, 0] = True
        for row, lane in enumerate(list(signals.lanes)[: self.most_lanes]):
            mask[row] |= signals.ready(lane) and signals.lanes[lane].depth is not None
        return mask.ravel()

    def answer(self, signals: Signals, action: Sequence[int]) -> Mapping[LaneId, int | None]:
        """Lane -> the index of its control, None where it is not valid there. Lanes that cannot speculate are left out.

        Raises `ConfigError` when the action has not one number per row.
        """
        if len(action) != self.most_lanes:
            raise ConfigError(f"the action needs {self.most_lanes} numbers, one per row; got {len(action)}")
        mask = self.mask(signals).reshape(self.most_lanes, -1)
        answer: dict[LaneId, int | None] = {}
        for row, lane in enumerate(list(signals.lanes)[: self.most_lanes]):
            index = int(action[row])
            if mask[row].all():
                answer[lane] = index if 0 <= index < len(self.controls) else None
            elif index != 0:
                answer[lane] = None
        return answer


def _lane(lane: LaneSignals, signals: Signals) -> tuple[float, ...]:
    load = signals.load[lane.lane]
    drafted = lane.draft_tokens_total
    return (
        1.0,
        signals.ready(lane.lane),
        load.decode_requests,
        load.prefill_tokens,
        lane.running,
        lane.waiting,
        load.requests / max(1, lane.max_running),
        lane.kv_used,
        lane.step_s,
        lane.cost.decode_step_s(1),
        lane.cost.decode_step_s(8),
        lane.cost.decode_step_s(32),
        lane.output_tokens_per_s,
        # An idle engine reports nothing, which is no sign of anything.
        max(0.0, signals.at_s - lane.at_s) if load.requests else 0.0,
        lane.accepted_tokens_total / drafted if drafted else 0.0,
        *control(lane.depth),
        *drafts(lane),
        *trends(lane),
    )


def _context(signals: Signals, beat: Beat) -> tuple[float, ...]:
    count = max(1, len(signals.lanes))
    return (
        signals.queued,
        beat.fast_per_s / count,
        beat.slow_per_s / count,
        count,
        sum(map(signals.ready, signals.lanes)) / count,
        sum(load.requests for load in signals.load.values()) / count,
    )
