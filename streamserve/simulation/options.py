"""SimOptions: what a simulated run is given besides its configuration and its calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamserve.lanes.sim.work import Found
from streamserve.types import LaneId


@dataclass(frozen=True, slots=True)
class SimOptions:
    """Chance, and what goes wrong; instants count from when the lanes were first ready."""

    seed: int = 0
    noise: bool = True
    """Whether steps vary as the measured ones did; without, a step costs what the model says."""
    speeds: Mapping[LaneId, float] = field(default_factory=dict)
    """How many times as fast as calibrated a lane is; 1 for those not named."""
    staleness_s: float = 0.0
    """How old the lanes' signals are."""
    failures: tuple[tuple[float, LaneId], ...] = ()
    """(instant, lane): its engine dies."""
    restart_s: float = 5.0
    """How long an engine takes to start again, after the supervisor's pause."""
    acceptance_scale: float = 1.0
    """Times the calibrated acceptance of drafts."""
    acceptance_drift: tuple[tuple[float, float], ...] = ()
    """(instant, scale): from then on all lanes have this scale."""
    drafts: Sequence[Sequence[Found | None]] = ()
    """Of each request of the plan, replayed (`lanes.sim.replay`); none = drawn from those of its workload."""
