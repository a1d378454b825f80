"""What is observed of one lane, for pairs and for lanes alike."""

import math

from streamserve.policy.columns import Column, Transform, ratio, share
from streamserve.signals import DepthControl, DepthMode, LaneSignals

CONTROL = (
    share("speculates"),
    share("mode_off"),
    share("mode_fixed"),
    share("mode_target"),
    share("mode_specustream"),
    Column("price", Transform.LOG, 1.0, -3.0, 3.0),
    Column("depth", scale=1 / 8, high=4.0),
    Column("depth_cap", scale=1 / 8, high=4.0),
)
"""The control in force on a lane; all 0 on a lane that does not speculate."""

DRAFTS = (
    Column("step_output", Transform.LOG, 1.0, 0.0, 3.0),
    share("acceptance_first"),
    share("acceptance_second"),
    share("acceptance_fourth"),
)
"""How drafts fare there."""

TRENDS = (ratio("tpot_trend"),)
"""Fast over slow average of its TPOT."""

NO_CONTROL = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
UNCAPPED = 8.0


def control(depth: DepthControl | None) -> tuple[float, ...]:
    """Raw numbers of `CONTROL`."""
    if depth is None:
        return NO_CONTROL
    mode = depth.mode
    fixed = mode is DepthMode.FIXED
    priced = mode is DepthMode.SPECUSTREAM
    return (
        1.0,
        float(mode is DepthMode.OFF),
        float(fixed),
        float(mode is DepthMode.TARGET_ACCEPTANCE),
        float(priced),
        depth.price if priced else 1.0,
        float(depth.depth) if fixed else 0.0,
        UNCAPPED if depth.max_depth is None else float(depth.max_depth),
    )


def drafts(lane: LaneSignals) -> tuple[float, ...]:
    """Raw numbers of `DRAFTS`; an acceptance that the lane does not know is 0."""
    rates = lane.acceptance
    known = len(rates)
    return (
        max(1.0, lane.step_output),
        rates[0] if known > 0 else 0.0,
        rates[1] if known > 1 else 0.0,
        rates[3] if known > 3 else 0.0,
    )


def trends(lane: LaneSignals) -> tuple[float, ...]:
    """Raw numbers of `TRENDS`."""
    fast, slow = lane.tpot_s.fast_s, lane.tpot_s.slow_s
    return (fast / slow if fast and slow and math.isfinite(fast) and math.isfinite(slow) else 1.0,)
