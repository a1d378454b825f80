"""Acceptance: what a draft shows does not depend on how much of it was verified."""

import json
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.specustream.acceptance import GUESS, Acceptance

LOG = Path(__file__).with_name("acceptance_log.jsonl")


def gained(draft: list[int], output: list[int], depth: int) -> list[int]:
    """What a greedy engine that verifies `depth` tokens of the draft makes of it."""
    accepted = 0
    while accepted < min(depth, len(draft)) and draft[accepted] == output[accepted]:
        accepted += 1
    return output[: accepted + 1]


tokens = st.integers(0, 1)


@given(st.lists(tokens, max_size=8), st.lists(tokens, min_size=9, max_size=9), st.integers(0, 8), st.integers(0, 8))
def test_verified_depth_only_decides_how_many_positions_show(
    draft: list[int], output: list[int], shallow: int, deeper: int
) -> None:
    estimates = []
    for depth in (shallow, shallow + deeper):
        acceptance = Acceptance(8)
        acceptance.observe("r", draft, gained(draft, output, depth))
        estimates.append(acceptance.lane)
    shown = min(len(draft), len(gained(draft, output, shallow)))
    assert estimates[0][:shown] == estimates[1][:shown]
    assert estimates[0][shown:] == Acceptance(8).lane[shown:]


def test_unverified_drafts_teach_the_same_acceptance_as_verified_ones() -> None:
    random = Random(1)
    lanes = []
    for depth in (0, 8):
        acceptance = Acceptance(8)
        for draft_number in range(3000):
            right = [random.uniform(0, 1) < 0.7 for _ in range(9)]
            draft = [0] * 8
            acceptance.observe(f"{draft_number}", draft, gained(draft, [0 if hit else 1 for hit in right], depth))
            acceptance.forget(f"{draft_number}")
        lanes.append(acceptance.lane)
    assert lanes[0][0] == pytest.approx(0.7, abs=0.1)
    assert lanes[1][0] == pytest.approx(0.7, abs=0.1)
    assert lanes[0][1:] == Acceptance(8).lane[1:]
    assert lanes[1][1] == pytest.approx(0.7, abs=0.1)


def test_positions_after_a_miss_or_after_the_draft_are_not_observed() -> None:
    acceptance = Acceptance(4)
    acceptance.observe("r", [1, 2, 3, 4], [1, 9, 3, 4])
    assert acceptance.lane[0] > GUESS[0]
    assert acceptance.lane[1] < GUESS[1]
    assert acceptance.lane[2:] == (GUESS[2], GUESS[2])
    acceptance.observe("r", [1], [1, 2, 3])
    assert acceptance.lane[2:] == (GUESS[2], GUESS[2])


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.lists(tokens, max_size=8), st.lists(tokens, max_size=9))),
    st.integers(0, 8),
)
def test_survivals_are_falling_probabilities(history: list[tuple[str, list[int], list[int]]], length: int) -> None:
    acceptance = Acceptance(8)
    for request_id, draft, output in history:
        acceptance.observe(request_id, draft, output)
    survivals = acceptance.survival("a", length)
    assert len(survivals) == length
    assert all(0 < later < earlier < 1 for earlier, later in zip(survivals, survivals[1:], strict=False))
    assert all(0 < rate < 1 for rate in acceptance.lane)


def test_a_request_departs_from_the_lane_and_is_forgotten() -> None:
    acceptance = Acceptance(4)
    for _ in range(20):
        acceptance.observe("copies", [1, 2], [1, 2, 3])
        acceptance.observe("invents", [1, 2], [9])
    average = acceptance.survival("unknown", 2)
    assert acceptance.survival("copies", 2)[0] > average[0] > acceptance.survival("invents", 2)[0]
    acceptance.forget("copies")
    acceptance.forget("copies")
    assert acceptance.survival("copies", 2) == acceptance.survival("unknown", 2)


def test_a_lane_follows_a_change_of_its_workload_and_counts_stay_finite() -> None:
    acceptance = Acceptance(2)
    for right in (True, False):
        for _ in range(6000):
            acceptance.observe("r", [1], [1 if right else 0])
        assert acceptance.lane[0] == pytest.approx(float(right), abs=0.02)
    assert acceptance.observations == pytest.approx(200, rel=0.01)


def test_on_a_recorded_log_it_predicts_better_than_the_guess() -> None:
    records = [json.loads(line) for line in LOG.read_text().splitlines()]
    acceptance = Acceptance(8)
    loss = guess_loss = 0.0
    for record in records:
        hit = record["draft"][0] == record["tokens"][0]
        (predicted,) = acceptance.survival(record["request"], 1)
        loss -= math.log(predicted if hit else 1 - predicted)
        guess_loss -= math.log(GUESS[0] if hit else 1 - GUESS[0])
        acceptance.observe(record["request"], record["draft"], record["tokens"])
    assert len(records) > 200
    assert loss < 0.8 * guess_loss
