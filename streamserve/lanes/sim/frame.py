"""Frame: what every engine of one simulated lane is made from, and what each knows from its warm-up."""

from dataclasses import dataclass

from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.lanes.sim.calibration import Calibration
from streamserve.lanes.sim.cost import StepTime
from streamserve.lanes.sim.drafts import Drafts
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.jitter import Jitter
from streamserve.specustream.cost import StepCostModel

WARM_UP_TOKENS = (8, 72, 40, 1, 9, 5, 2, 18, 10)
"""Decode tokens of the steps that a live lane measures while it warms up."""
WARM_UP_PROMPT_TOKENS = 256
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """The lane's part of an engine: what stays when the engine dies."""

    calibration: Calibration
    host: Host
    engine: EngineConfig
    speculation: SpeculationConfig
    steps: StepTime
    drafts: Drafts | None
    """None: it does not speculate."""
    jitter: Jitter | None
    """None: single steps do not differ."""
    most_steps: int
    """Of a stretch."""


def warmed_up(steps: StepTime, speed: float) -> StepCostModel:
    """What a lane of this speed has learned of its steps before its first request."""
    cost = StepCostModel()
    prompt_s = steps.prompt_s([(0, WARM_UP_PROMPT_TOKENS)])
    for _ in range(REPEATS):
        for tokens in WARM_UP_TOKENS:
            cost.observe(steps.decode_s(tokens) / speed, 0, tokens)
        cost.observe(prompt_s / speed, WARM_UP_PROMPT_TOKENS, 0)
    return cost
