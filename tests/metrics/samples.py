"""Signals and results to show."""

from typing import Any

from streamserve.signals import (
    Averages,
    DepthControl,
    DepthMode,
    DeviceSignals,
    LaneLoad,
    LaneSignals,
    Signals,
    StepCost,
)
from streamserve.types import Decision, Finish, LaneId, LaneState, Prediction, Result, Slo

A, B = LaneId("a"), LaneId("b")


class Source:
    """Signals that a test sets."""

    def __init__(self, signals: Signals) -> None:
        self.now = signals

    def signals(self) -> Signals:
        return self.now


def full_lane(lane: LaneId = A, **fields: Any) -> LaneSignals:
    """A lane of which everything is known."""
    known: dict[str, Any] = {
        "state": LaneState.READY,
        "at_s": 1.0,
        "kv_tokens": 4096,
        "prefill_queued_tokens": 123,
        "step_s": 0.04,
        "cost": StepCost(((1, 0.03), (8, 0.05)), 0.002, 77),
        "steps": 5,
        "acceptance": (0.8, 0.5),
        "step_output": 2.2,
        "depth": DepthControl(DepthMode.FIXED, 3, 0.5, 1.5, 6),
        "transfer_s": Averages(0.01, 0.02),
        "transfers_total": 4,
        "ttft_s": Averages(0.3, 0.4),
        "tpot_s": Averages(0.03, 0.04),
        "device": DeviceSignals(1.0, 0.9, 10_000, 0.5, 0.75, 61.0),
        "restarts": 2,
    }
    return LaneSignals(lane, **(known | fields))


def signals(*lanes: LaneSignals, queued: int = 0, **load: LaneLoad) -> Signals:
    return Signals(
        0.0,
        {lane.lane: lane for lane in lanes},
        {lane.lane: load.get(lane.lane, LaneLoad()) for lane in lanes},
        queued,
    )


def result(**fields: Any) -> Result:
    """Arrived at 10, decided at 11, dispatched at 11, first token at 13, 11 tokens, finished at 14; a to b."""
    known: dict[str, Any] = {
        "request_id": "r",
        "decision": decision(),
        "prompt_tokens": 100,
        "output_tokens": 11,
        "arrived_s": 10.0,
        "finished_s": 14.0,
        "finish": Finish.STOP,
        "first_token_s": 13.0,
        "slo": Slo(ttft_s=3.0),
        "dispatched_s": 11.0,
    }
    return Result(**(known | fields))


def decision(prefill: LaneId = A, decode: LaneId = B, **fields: Any) -> Decision:
    known: dict[str, Any] = {"prediction": Prediction(ttft_s=1.0, tpot_s=0.1, e2e_s=6.0), "at_s": 11.0}
    return Decision(prefill, decode, "flowguard", "the test says so", **(known | fields))
