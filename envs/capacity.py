"""Capacity: about how many requests per second the lanes can serve, so that a load means the same on any of them."""

from collections.abc import Mapping

from streamserve.config import Config
from streamserve.lanes.sim.calibration import Calibration
from streamserve.lanes.sim.cost import StepTime
from streamserve.types import LaneId
from streamserve.workload.lengths import Lengths


def capacity(config: Config, calibration: Calibration, means: Lengths, speeds: Mapping[LaneId, float]) -> float:
    """Requests per second of all lanes together, each with a full batch of mean requests and no drafts.

    A fluid bound: a step of the full batch moves every request by one token, and prompts are computed in such steps,
    never in some of their own. With drafts lanes may do better.
    """
    step = calibration.step
    prompt, output = means.prompt_tokens, means.output_tokens
    batch = max(1.0, min(config.engine.max_running, calibration.kv_tokens / (prompt + output)))
    prefill_s = prompt * step.prompt_token_s + 0.5 * prompt**2 * step.attention_s
    token_s = StepTime(step).decode_s(max(1, round(batch))) / batch + step.context_token_s * (prompt + 0.5 * output)
    factor = calibration.coupling[min(len(config.lanes), len(calibration.coupling)) - 1]
    lanes = sum(speeds.get(lane.id, 1.0) for lane in config.lanes)
    return lanes / (factor * (prefill_s + output * token_s))
