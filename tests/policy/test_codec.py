"""The codec: rows for pairs, actions for decisions, FlowGuard's own choice among them."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.errors import ConfigError
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.policy.codec import Codec
from streamserve.policy.columns import Columns
from streamserve.policy.layout import CONTEXT, PAIRS, REQUEST
from streamserve.policy.question import Answer, Question
from streamserve.policy.rhythm import Beat
from streamserve.signals import DepthControl, DepthMode, LaneLoad, LaneSignals, Signals
from streamserve.types import LaneId, Request, Slo
from tests.fakes import make_request
from tests.flowguard.snapshots import LANES, A, B, C, D, every_pair, lane, signals
from tests.policy import plain

CODEC = Codec()
SPECULATING: dict[str, Any] = {"depth": DepthControl(), "acceptance": (0.8, 0.6, 0.4, 0.3), "step_output": 2.0}
BEAT = Beat(2.0, 1.0, 0.3)


def asked(request: Request, seen: Signals, codec: Codec = CODEC, pairs: Any = None) -> tuple[Question, FlowGuard]:
    flowguard = FlowGuard(every_pair(seen.lanes) if pairs is None else pairs)
    assessment = flowguard.assess(request, seen)
    return codec.question(assessment, flowguard.best(assessment), seen, BEAT), flowguard


def busy(order: Sequence[LaneId] = (A, B)) -> Signals:
    loads = {A: LaneLoad(1, 200, 3), B: LaneLoad(0, 0, 1), C: LaneLoad(2, 700, 0), D: LaneLoad()}
    lanes = [lane(id, running=2 + ord(id) % 3, kv_used=ord(id) / 200, **SPECULATING) for id in order]
    return signals(*lanes, load={id: loads[id] for id in order}, at_s=0.5)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1)
counts = st.integers(0, 10**6)


@st.composite
def anything(draw: st.DrawFn) -> Signals:
    def some(id: LaneId) -> LaneSignals:
        depth = draw(st.none() | st.builds(DepthControl, mode=st.sampled_from(DepthMode), price=st.floats(0.1, 10)))
        return lane(
            id,
            running=draw(counts),
            waiting=draw(counts),
            kv_used=draw(numbers),
            step_output=draw(st.floats(0.0, 40.0)),
            acceptance=tuple(draw(st.lists(numbers, max_size=5))),
            depth=depth,
        )

    lanes = [some(id) for id in LANES[: draw(st.integers(1, 4))]]
    load = {each.lane: LaneLoad(draw(counts), draw(counts), draw(counts)) for each in lanes}
    return replace(signals(*lanes, load=load, at_s=draw(st.floats(0, 1e6))), queued=draw(counts))


requests = st.builds(
    make_request,
    prompt=st.integers(1, 300).map(range),
    max_tokens=st.integers(1, 4096),
    continuable=st.booleans(),
    splittable=st.booleans(),
    max_depth=st.none() | st.integers(0, 8),
    slo=st.builds(Slo, st.none() | st.floats(1e-3, 100), st.none() | st.floats(1e-3, 10)),
)


@settings(max_examples=40)
@given(requests, anything())
def test_every_observation_is_in_its_space_and_some_action_is_valid(request: Request, seen: Signals) -> None:
    question, _ = asked(request, seen)
    for name, (low, high) in CODEC.bounds().items():
        observed = question.observation[name]
        assert observed.dtype == np.float32
        assert observed.shape == CODEC.shapes()[name]
        assert ((low <= observed) & (observed <= high)).all(), name
    for depth in (False, True):
        mask = CODEC.mask(question, depth)
        assert mask.shape == (8 * (4 if depth else 1),)
        assert mask[CODEC.heuristic_action(question, depth)]


@settings(max_examples=60)
@given(requests, st.lists(anything(), min_size=1, max_size=3))
def test_compiled_it_is_what_plain_python_gathers(request: Request, several: list[Signals]) -> None:
    codec, flowguard = Codec(16), FlowGuard(every_pair(LANES))
    for seen in several:
        assessment = flowguard.assess(request, seen)
        question = codec.question(assessment, flowguard.best(assessment), seen, BEAT)
        count = len(question.places)
        pairs = np.array(plain.pairs(assessment, question.places, question.heuristic), np.float64)
        observed = question.observation["pairs"]
        np.testing.assert_allclose(observed[:count], PAIRS.apply(pairs), rtol=1e-6, atol=1e-6)
        crowd = slice(CONTEXT.places["requests_per_lane"], CONTEXT.places["step_output_mean"] + 1)
        expected = Columns(CONTEXT.columns[crowd]).apply(np.array(plain.crowd(assessment), np.float64))
        np.testing.assert_allclose(question.observation["context"][crowd], expected, rtol=1e-6, atol=1e-6)
        assert not question.observation["pairs"][count:].any()


def test_numbers_of_the_request_and_of_all_lanes_are_under_their_names() -> None:
    request = make_request(prompt=range(160), max_tokens=32, priority=-8, slo=Slo(ttft_s=4.0), arrived_s=-0.5)
    seen = replace(busy(), queued=7)
    question, _ = asked(request, seen)
    named = {
        name: float(number)
        for columns, array in ((REQUEST, "request"), (CONTEXT, "context"))
        for name, number in zip(columns.places, question.observation[array], strict=True)
    }
    expected = {
        "prompt_tokens": math.log1p(10),
        "max_tokens": math.log1p(2),
        "waited_s": math.log1p(10),
        "ttft_slack": 0.75,
        "has_tpot_slo": 0.0,
        "priority": -2.0,
        "queued": math.log1p(7),
        "gap_s": math.log1p(3),
        "lanes": math.log1p(1),
        "pairs": math.log1p(2),
        "most_requests": math.log1p(4),
        "degraded": 0.0,
        "probed": 0.0,
    }
    assert {name: named[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40)
@given(requests, anything(), st.integers(1, 9))
def test_the_heuristic_s_action_is_what_flowguard_does(request: Request, seen: Signals, most_pairs: int) -> None:
    codec = Codec(most_pairs)
    alone = FlowGuard(every_pair(seen.lanes)).route(request, seen)
    question, flowguard = asked(request, seen, codec)
    for depth in (False, True):
        answer = codec.answer(question, codec.heuristic_action(question, depth), depth)
        assert answer is not None
        assert answer.max_depth is None
    assert answer is not None
    decision = codec.decide(flowguard, question, answer)
    assert replace(decision, candidates=()) == replace(alone, candidates=())


def test_what_marks_the_heuristic_marks_it_alone() -> None:
    question, _ = asked(make_request(), busy(LANES))
    pairs = question.observation["pairs"]
    marks = pairs[:, PAIRS.places["heuristic"]]
    assert marks.tolist() == [float(row == question.heuristic) for row in range(8)]
    assert pairs[question.heuristic, PAIRS.places["score"]] == 0.0
    assert (pairs[:, PAIRS.places["score"]] <= 0).all()


@pytest.mark.parametrize("order", [(B, A), (A, B)])
def test_rows_follow_the_lanes(order: tuple[LaneId, LaneId]) -> None:
    request = make_request(prompt=range(300))
    question, _ = asked(request, busy((A, B)))
    permuted, _ = asked(request, busy(order))
    lanes = permuted.assessment.view.lanes.lanes
    for row, (prefill, decode) in enumerate(question.places):
        other = permuted.places.index((lanes.index((A, B)[prefill]), lanes.index((A, B)[decode])))
        assert permuted.observation["pairs"][other].tolist() == question.observation["pairs"][row].tolist()
    for name in ("request", "context"):
        assert permuted.observation[name].tolist() == pytest.approx(question.observation[name].tolist())


def test_of_too_many_pairs_the_best_are_kept_in_their_order() -> None:
    question, _ = asked(make_request(), busy(LANES))
    total = question.assessment.total
    assert len(question.places) == 8
    assert list(question.places) == sorted(question.places)
    own = [place for place in question.places if place[0] == place[1]]
    assert len(own) >= 4
    split = [place for place in question.places if place[0] != place[1]]
    left = [total[p, d] for p in range(4) for d in range(4) if p != d and (p, d) not in split]
    assert min(total[place] for place in split) >= max(left)


def test_only_pairs_that_can_be_chosen_have_rows() -> None:
    seen = replace(busy(), room=frozenset({B}))
    question, _ = asked(make_request(), seen, pairs=((A, A), (B, B)))
    assert question.places == ((1, 1),)
    assert CODEC.mask(question, False).tolist() == [True] + [False] * 7
    assert not question.observation["pairs"][1:].any()
    assert CODEC.answer(question, 1, False) is None


def test_actions_are_pairs_and_caps() -> None:
    question, flowguard = asked(make_request(), busy(), pairs=((A, A), (B, B)))
    answers = [CODEC.answer(question, action, True) for action in range(8)]
    places = [(0, 0)] * 4 + [(1, 1)] * 4
    assert answers == [Answer(place, cap) for place, cap in zip(places, (None, 0, 2, 4) * 2, strict=True)]
    assert [CODEC.answer(question, action, True) for action in (-1, 8, 31, 32, 10**9)] == [None] * 5
    decision = CODEC.decide(flowguard, question, Answer((1, 1), 2), "learned", "said so")
    assert (decision.prefill, decision.decode, decision.max_depth) == (B, B, 2)
    assert (decision.router, decision.reason) == ("learned", "said so")
    assert decision.prediction is not None


@pytest.mark.parametrize(
    ("fields", "max_depth", "caps"),
    [
        ({}, None, [True, False, False, False]),
        ({"depth": DepthControl(DepthMode.OFF)}, None, [True, False, False, False]),
        (SPECULATING, None, [True, True, True, True]),
        (SPECULATING, 4, [True, True, True, False]),
        (SPECULATING, 0, [True, False, False, False]),
    ],
)
def test_a_cap_that_changes_nothing_is_not_offered(
    fields: dict[str, Any], max_depth: int | None, caps: list[bool]
) -> None:
    question, _ = asked(make_request(max_depth=max_depth), signals(lane(A, **fields)))
    assert question.depths[0].tolist() == caps


def test_the_future_of_a_request_is_not_observed() -> None:
    one, _ = asked(make_request(payload="short"), busy())
    other, _ = asked(make_request(payload="long", id="another"), busy())
    for name, observed in one.observation.items():
        assert observed.tolist() == other.observation[name].tolist()


def test_what_is_observed_moves_the_right_columns() -> None:
    quiet, _ = asked(make_request(prompt=range(64)), busy(), pairs=((A, A), (B, B)))
    pairs = quiet.observation["pairs"]
    places = PAIRS.places
    assert pairs[0, places["prefill_queued_tokens"]] == pytest.approx(math.log1p(200 / 64))
    assert pairs[1, places["decode_requests"]] == pytest.approx(math.log1p(1))
    assert pairs[0, places["acceptance_first"]] == pytest.approx(0.8)
    assert pairs[0, places["step_output"]] == pytest.approx(math.log(2))
    assert pairs[0, places["mode_specustream"]] == 1.0
    assert quiet.observation["request"][0] == pytest.approx(math.log1p(64 / 16))


def test_deadlines_are_observed_beside_what_is_predicted_and_0_without_any() -> None:
    names = ("ttft_to_slo", "tpot_to_slo", "others_tpot_to_slo")
    free, _ = asked(make_request(), busy(), pairs=((A, A), (B, B)))
    request = make_request(slo=Slo(2.0, 0.05))
    bound, flowguard = asked(request, busy(), pairs=((A, A), (B, B)))
    forecast = flowguard.assess(request, busy()).view.forecast
    for row in (0, 1):
        assert [free.observation["pairs"][row, PAIRS.places[name]] for name in names] == [0, 0, 0]
        ttft, tpot, others = (bound.observation["pairs"][row, PAIRS.places[name]] for name in names)
        waited_s = 0.5 - request.arrived_s
        assert ttft == pytest.approx(_near(forecast.ttft_s.item(row, 0) / (2.0 - waited_s)), abs=1e-5)
        assert tpot == pytest.approx(_near(forecast.tpot_s.item(row) / 0.05), abs=1e-5)
        assert others < tpot, "both lanes decode something, which one more slows down"


def _near(share: float) -> float:
    return min(4.0, max(-4.0, 4.0 * math.log(share)))


def test_the_schema_is_plain_and_its_hash_tells_codecs_apart() -> None:
    schema = CODEC.schema()
    assert json.loads(json.dumps(schema)) == schema
    assert len(schema["pairs"]) == CODEC.shapes()["pairs"][1]
    assert CODEC.schema_hash() == Codec().schema_hash()
    assert len({codec.schema_hash() for codec in (CODEC, Codec(4), Codec(8, (None, 0)))}) == 3


def test_the_empty_observation_is_in_the_space() -> None:
    empty = CODEC.empty()
    for name, (low, high) in CODEC.bounds().items():
        assert empty[name].shape == low.shape
        assert ((low <= empty[name]) & (empty[name] <= high)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"most_pairs": 0}, "most_pairs must be at least 1"),
        ({"depth_caps": ()}, "the first must be null"),
        ({"depth_caps": (0, 2)}, "the first must be null"),
        ({"depth_caps": (None, -1)}, "must be 0 or more"),
        ({"depth_caps": (None, None)}, "must be 0 or more"),
    ],
)
def test_sizes_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Codec(**given)
