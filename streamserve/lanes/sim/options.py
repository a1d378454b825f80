"""Options of one simulated lane: how it differs from the lane that was calibrated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """What an experiment sets on a lane."""

    speed: float = 1.0
    """2 = every step takes half the time."""
    staleness_s: float = 0.0
    """Its signals are that old."""
    start_s: float = 5.0
    """Seconds that a start takes, the first one and every restart."""
    acceptance_scale: float = 1.0
    """Times the calibrated acceptance of every draft token, at most 1."""


AS_CALIBRATED = LaneOptions()
