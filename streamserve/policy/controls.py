"""The depth actions: caps on one request, and controls of a lane."""

from streamserve.signals import DepthControl, DepthMode

DEPTH_CAPS: tuple[int | None, ...] = (None, 0, 2, 4)
"""Most draft tokens per step of one request; None = as the lane decides, which is what FlowGuard does."""

CONTROLS: tuple[DepthControl, ...] = (
    DepthControl(DepthMode.SPECUSTREAM, price=1.0),
    DepthControl(DepthMode.SPECUSTREAM, price=0.5),
    DepthControl(DepthMode.SPECUSTREAM, price=2.0),
    DepthControl(DepthMode.OFF),
    DepthControl(DepthMode.FIXED, depth=2),
    DepthControl(DepthMode.FIXED, depth=4),
    DepthControl(DepthMode.FIXED, depth=8),
)
"""What a lane can be set to; the first is SpecuStream at best goodput, the heuristic."""
