"""What crosses between the front and an engine's process: a depth control as plain values, a step's report."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from streamserve.signals import DepthControl, DepthMode

REPORT = "streamserve"
"""Under this key of vLLM's `ec_connector_stats`, which no engine of ours uses, a step's report travels to the front."""


def encoded(control: DepthControl) -> list[Any]:
    """The fields in their order."""
    mode, *numbers = astuple(control)
    return [str(mode), *numbers]


def decoded(values: Sequence[Any]) -> DepthControl:
    """The control that `encoded` was given."""
    mode, *numbers = values
    return DepthControl(DepthMode(mode), *numbers)


def deepest(control: DepthControl, max_depth: int) -> int:
    """The longest draft that can be of use under this control, of a drafter that makes at most `max_depth` tokens."""
    cap = max_depth if control.max_depth is None else min(control.max_depth, max_depth)
    if control.mode is DepthMode.OFF:
        return 0
    return min(control.depth, cap) if control.mode is DepthMode.FIXED else cap
