"""Decisions and results in plain values, for a header and for the decision log."""

import math
from collections.abc import Mapping
from typing import Any

from streamserve.types import Candidate, Decision, Prediction, Result

DIGITS = 5
"""Significant digits of a number: scores and seconds are known no better."""


def decision(decision: Decision, candidates: int | None = None) -> dict[str, Any]:
    """Why a request runs where it does; seconds, tokens and scores.

    candidates: at most so many of the pairs that were considered, best first; None = all.
    """
    return {
        "router": decision.router,
        "reason": decision.reason,
        "prefill": decision.prefill,
        "decode": decision.decode,
        "max_depth": decision.max_depth,
        "scores": _scores(decision.scores),
        "prediction": _prediction(decision.prediction),
        "candidates": [_candidate(candidate) for candidate in decision.candidates[:candidates]],
    }


def result(result: Result) -> dict[str, Any]:
    """What became of a request, beside what its last decision had predicted."""
    dispatched_s = result.dispatched_s
    return {
        "request_id": result.request_id,
        **({} if result.decision is None else decision(result.decision)),
        "prompt_tokens": result.prompt_tokens,
        "output_tokens": result.output_tokens,
        "queue_s": None if dispatched_s is None else _number(dispatched_s - result.arrived_s),
        "ttft_s": _number(result.ttft_s),
        "tpot_s": _number(result.tpot_s),
        "e2e_s": _number(result.e2e_s),
        "finish": result.finish.value,
        "error": result.error,
        "attempts": result.attempts,
        "priority": result.priority,
        "slo": {"ttft_s": result.slo.ttft_s, "tpot_s": result.slo.tpot_s},
        "slo_met": result.slo_met,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "prefill": candidate.prefill,
        "decode": candidate.decode,
        "score": _number(candidate.score),
        "scores": _scores(candidate.scores),
        "prediction": _prediction(candidate.prediction),
    }


def _prediction(prediction: Prediction | None) -> dict[str, Any] | None:
    if prediction is None:
        return None
    seconds = {"ttft_s": prediction.ttft_s, "tpot_s": prediction.tpot_s, "e2e_s": prediction.e2e_s}
    return {**{name: _number(value) for name, value in seconds.items()}, "cached_tokens": prediction.cached_tokens}


def _scores(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(score) for name, score in scores.items()}


def _number(value: float | None) -> float | None:
    # JSON has neither infinity nor NaN.
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None
