"""Explanations in a header: valid JSON in ASCII, and never too large."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from streamserve.api import trace
from streamserve.types import Candidate, Decision, LaneId, Prediction
from tests.fakes import pair

A = LaneId("a")


def scored(candidates: int, scores: int = 6) -> Decision:
    values = {f"scorer_{n}": 0.5 for n in range(scores)}
    prediction = Prediction(0.5, 0.05, 3.0, 64)
    considered = tuple(Candidate(A, LaneId(f"lane-{n}"), 1 - n / 10, values, prediction) for n in range(candidates))
    return replace(pair("a", "b"), scores=values, prediction=prediction, candidates=considered)


def test_a_decision_is_shown_with_its_best_candidates() -> None:
    (shown,) = json.loads(trace.explained([scored(9)]))
    assert (shown["router"], shown["prefill"], shown["decode"]) == ("test", "a", "b")
    assert [candidate["decode"] for candidate in shown["candidates"]] == ["lane-0", "lane-1", "lane-2", "lane-3"]


def test_candidates_make_way_for_decisions() -> None:
    shown = json.loads(trace.explained([scored(9)] * 9))
    assert len(shown) == 4
    assert len(shown[0]["candidates"]) < 4


@given(st.lists(st.builds(pair, st.just("lane-0" * 9), st.just("lane-1")), max_size=6), st.text(), st.integers(0, 300))
def test_whatever_a_router_says_fits_into_a_header(decisions: list[Decision], reason: str, scores: int) -> None:
    wordy = [replace(scored(3, scores), reason=reason * 9, prefill=each.prefill) for each in decisions]
    text = trace.explained(wordy)
    assert len(text) <= trace.MOST_BYTES
    assert all(32 <= byte < 127 for byte in text)
    assert len(json.loads(text)) == min(len(decisions), 4)
