"""Acceptance: what a draft shows does not depend on how much of it was verified."""

import json
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.specustream.acceptance import Acceptance
from streamserve.specustream.draft import Draft, by_position

GUESSES = (0.45, 0.55, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6)
LOG = Path(__file__).with_name("acceptance_log.jsonl")


def gained(draft: list[int], output: list[int], depth: int) -> list[int]:
    """What a greedy engine that verifies `depth` tokens of the draft makes of it."""
    accepted = 0
    while accepted < min(depth, len(draft)) and draft[accepted] == output[accepted]:
        accepted += 1
    return output[: accepted + 1]


def placed(tokens: list[int]) -> Draft:
    return by_position(tokens, len(GUESSES))


tokens = st.integers(0, 1)
drafts = st.lists(st.tuples(tokens, st.integers(0, 7)), max_size=8).map(
    lambda each: Draft([token for token, _ in each], [kind for _, kind in each])
)


@given(drafts, st.lists(tokens, min_size=9, max_size=9), st.integers(0, 8), st.integers(0, 8))
def test_verified_depth_only_decides_how_many_tokens_show(
    draft: Draft, output: list[int], shallow: int, deeper: int
) -> None:
    """A draft that was verified deeper teaches what one cut after the shown tokens does, and then more."""
    shown = len(gained(list(draft.tokens), output, shallow))
    cut = Draft(draft.tokens[:shown], draft.kinds[:shown])
    estimates = []
    for learned, depth in ((draft, shallow), (cut, shallow), (cut, shallow + deeper)):
        acceptance = Acceptance(GUESSES)
        acceptance.observe("r", learned, gained(list(draft.tokens), output, depth))
        estimates.append((acceptance.lane, acceptance.survival("r", range(8))))
    assert estimates[0] == estimates[1] == estimates[2]


def test_unverified_drafts_teach_the_same_acceptance_as_verified_ones() -> None:
    random = Random(1)
    lanes = []
    for depth in (0, 8):
        acceptance = Acceptance(GUESSES)
        for draft_number in range(3000):
            right = [random.uniform(0, 1) < 0.7 for _ in range(9)]
            draft = [0] * 8
            output = [0 if hit else 1 for hit in right]
            acceptance.observe(f"{draft_number}", placed(draft), gained(draft, output, depth))
            acceptance.forget(f"{draft_number}")
        lanes.append(acceptance.lane)
    assert lanes[0][0] == pytest.approx(0.7, abs=0.1)
    assert lanes[1][0] == pytest.approx(0.7, abs=0.1)
    assert lanes[0][1:] == GUESSES[1:]
    assert lanes[1][1] == pytest.approx(0.7, abs=0.1)


def test_tokens_after_a_miss_or_after_the_draft_are_not_observed() -> None:
    acceptance = Acceptance(GUESSES)
    assert acceptance.observe("r", placed([1, 2, 3, 4]), [1, 9, 3, 4]) == 1
    assert acceptance.lane[0] > GUESSES[0]
    assert acceptance.lane[1] < GUESSES[1]
    assert acceptance.lane[2:] == GUESSES[2:]
    assert acceptance.observe("r", placed([1]), [1, 2, 3]) == 1
    assert acceptance.lane[2:] == GUESSES[2:]
    assert acceptance.observe("r", placed([]), [1, 2, 3]) == 0
    assert acceptance.drafts == 2


def test_a_kind_is_learned_wherever_it_stands_in_a_draft() -> None:
    acceptance = Acceptance([0.5, 0.5, 0.5])
    for _ in range(300):
        acceptance.observe("a", Draft([1, 2, 3], [2, 2, 0]), [1, 2, 9])
        acceptance.observe("b", Draft([1, 2], [0, 2]), [9])
    assert acceptance.lane[0] < 0.05
    assert acceptance.lane[1] == 0.5
    assert acceptance.lane[2] > 0.95
    likely, unlikely = acceptance.survival("c", [2]), acceptance.survival("c", [0])
    assert likely[0] > 0.9
    assert unlikely[0] < 0.1
    assert acceptance.survival("c", [2, 0, 2])[1:] == pytest.approx(
        [likely[0] * unlikely[0], likely[0] * unlikely[0] * likely[0]]
    )


@given(
    st.lists(st.tuples(st.sampled_from("ab"), drafts, st.lists(tokens, max_size=9))),
    st.lists(st.integers(0, 7), max_size=8),
)
def test_survivals_are_falling_probabilities(history: list[tuple[str, Draft, list[int]]], kinds: list[int]) -> None:
    acceptance = Acceptance(GUESSES)
    for request_id, draft, output in history:
        acceptance.observe(request_id, draft, output)
    survivals = acceptance.survival("a", kinds)
    assert len(survivals) == len(kinds)
    assert all(0 < later < earlier < 1 for earlier, later in zip(survivals, survivals[1:], strict=False))
    assert all(0 < rate < 1 for rate in acceptance.lane)


def test_a_request_departs_from_the_lane_and_is_forgotten() -> None:
    acceptance = Acceptance(GUESSES)
    for _ in range(20):
        acceptance.observe("copies", placed([1, 2]), [1, 2, 3])
        acceptance.observe("invents", placed([1, 2]), [9])
    average = acceptance.survival("unknown", [0, 1])
    assert acceptance.survival("copies", [0, 1])[0] > average[0] > acceptance.survival("invents", [0, 1])[0]
    acceptance.forget("copies")
    acceptance.forget("copies")
    assert acceptance.survival("copies", [0, 1]) == acceptance.survival("unknown", [0, 1])


def test_a_lane_follows_a_change_of_its_workload() -> None:
    acceptance = Acceptance(GUESSES)
    for right in (True, False):
        for _ in range(6000):
            acceptance.observe("r", placed([1]), [1 if right else 0])
        assert acceptance.lane[0] == pytest.approx(float(right), abs=0.02)
    assert acceptance.drafts == 12000


def test_on_a_recorded_log_it_predicts_better_than_the_guess() -> None:
    records = [json.loads(line) for line in LOG.read_text().splitlines()]
    acceptance = Acceptance(GUESSES)
    loss = guess_loss = 0.0
    for record in records:
        hit = record["draft"][0] == record["tokens"][0]
        (predicted,) = acceptance.survival(record["request"], [0])
        loss -= math.log(predicted if hit else 1 - predicted)
        guess_loss -= math.log(GUESSES[0] if hit else 1 - GUESSES[0])
        acceptance.observe(record["request"], placed(record["draft"]), record["tokens"])
    assert len(records) > 200
    assert loss < 0.8 * guess_loss
