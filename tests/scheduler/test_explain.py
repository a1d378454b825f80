"""Decisions and results in plain values: what a reader of headers and logs sees."""

import json
import math

from streamserve.scheduler import explain
from streamserve.types import Candidate, Decision, Finish, LaneId, Prediction, Result, Slo

A, B = LaneId("a"), LaneId("b")
PREDICTION = Prediction(ttft_s=1.2345678, tpot_s=math.inf, e2e_s=2.0, cached_tokens=7)
DECISION = Decision(
    A,
    B,
    "test",
    "least of all",
    {"queue": 0.1234567},
    PREDICTION,
    (Candidate(A, B, 0.9, {"queue": 1.0}, PREDICTION), Candidate(B, B, math.nan)),
    max_depth=3,
)


def test_a_decision_says_where_why_and_what_else_was_considered() -> None:
    prediction = {"ttft_s": 1.2346, "tpot_s": None, "e2e_s": 2.0, "cached_tokens": 7}
    assert explain.decision(DECISION) == {
        "router": "test",
        "reason": "least of all",
        "prefill": "a",
        "decode": "b",
        "max_depth": 3,
        "scores": {"queue": 0.12346},
        "prediction": prediction,
        "candidates": [
            {"prefill": "a", "decode": "b", "score": 0.9, "scores": {"queue": 1.0}, "prediction": prediction},
            {"prefill": "b", "decode": "b", "score": None, "scores": {}, "prediction": None},
        ],
    }
    assert len(explain.decision(DECISION, 1)["candidates"]) == 1
    json.dumps(explain.decision(DECISION), allow_nan=False)


def test_a_result_puts_what_was_predicted_beside_what_came() -> None:
    result = Result("r", DECISION, 10, 5, 100.0, 103.0, Finish.STOP, 101.0, 2, None, Slo(0.5), -10, 100.25)
    told = explain.result(result)
    assert explain.decision(DECISION).items() <= told.items()
    rest = {key: value for key, value in told.items() if key not in explain.decision(DECISION)}
    assert rest == {
        "request_id": "r",
        "prompt_tokens": 10,
        "output_tokens": 5,
        "queue_s": 0.25,
        "ttft_s": 1.0,
        "tpot_s": 0.5,
        "e2e_s": 3.0,
        "finish": "stop",
        "error": None,
        "attempts": 2,
        "priority": -10,
        "slo": {"ttft_s": 0.5, "tpot_s": None},
        "slo_met": False,
    }


def test_a_request_that_was_never_dispatched_has_no_decision() -> None:
    told = explain.result(Result("r", None, 10, 0, 100.0, 103.0, Finish.ERROR, error="full"))
    assert "prefill" not in told
    assert (told["queue_s"], told["ttft_s"], told["error"]) == (None, None, "full")
