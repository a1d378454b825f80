"""Signals for router tests."""

from collections.abc import Iterable, Mapping
from typing import Any

from streamserve.signals import LaneLoad, LaneSignals, Signals, StepCost
from streamserve.types import Decision, Finish, LaneId, LaneState, Result

A, B, C, D = (LaneId(name) for name in "abcd")
LANES = (A, B, C, D)
COST = StepCost(((1, 0.04), (8, 0.05), (64, 0.2)), 0.002, steps=100)


def every_pair(lanes: Iterable[LaneId] = LANES) -> tuple[tuple[LaneId, LaneId], ...]:
    return tuple((prefill, decode) for prefill in lanes for decode in lanes)


def lane(id: LaneId, at_s: float = 0.0, **fields: Any) -> LaneSignals:
    return LaneSignals(id, **{"state": LaneState.READY, "at_s": at_s, "cost": COST, "kv_tokens": 65_536, **fields})


def signals(
    *snapshots: LaneSignals,
    load: Mapping[LaneId, LaneLoad] | None = None,
    room: Iterable[LaneId] | None = None,
    at_s: float = 0.0,
) -> Signals:
    """These lanes, or all four, idle."""
    lanes = {snapshot.lane: snapshot for snapshot in snapshots or [lane(id, at_s) for id in LANES]}
    known = {id: LaneLoad() for id in lanes} | dict(load or {})
    return Signals(at_s, lanes, known, room=None if room is None else frozenset(room))


def result(decision: Decision, **fields: Any) -> Result:
    """How a request ended: well and exactly as predicted, unless told otherwise."""
    expected = decision.prediction
    ttft_s, tpot_s = (expected.ttft_s, expected.tpot_s) if expected else (0.1, 0.04)
    first_s = decision.at_s + fields.pop("ttft_s", ttft_s)
    tokens = fields.pop("output_tokens", 20)
    finished_s = first_s + fields.pop("tpot_s", tpot_s) * (tokens - 1)
    known = {"request_id": "r", "prompt_tokens": 3, "arrived_s": decision.at_s, "finish": Finish.LENGTH}
    return Result(
        **{**known, "decision": decision, "output_tokens": tokens, "finished_s": finished_s, "first_token_s": first_s}
        | fields
    )
