"""Routers: which pairs are candidates, who is chosen, and what the decision says."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.errors import ConfigError, NoLane
from streamserve.flowguard.routers import DECODE_COST_TOKENS, ROUTERS, LeastLoaded, Pairs, RoundRobin, build
from streamserve.signals import LaneLoad, LaneSignals, Signals
from streamserve.types import LaneId, LaneState
from tests.fakes import make_request

A, B, C, D = (LaneId(name) for name in "abcd")
TWO_PAIRS: Pairs = ((A, B), (C, D))
REQUEST = make_request()

states = st.fixed_dictionaries({lane: st.sampled_from(LaneState) for lane in (A, B, C, D)})
loads = st.fixed_dictionaries(
    {lane: st.builds(LaneLoad, st.integers(0, 9), st.integers(0, 9000), st.integers(0, 50)) for lane in (A, B, C, D)}
)
pair_sets = st.lists(st.tuples(*[st.sampled_from([A, B, C, D])] * 2), min_size=1, max_size=16, unique=True).map(tuple)


def signals(states: Mapping[LaneId, LaneState] | None = None, load: Mapping[LaneId, LaneLoad] | None = None) -> Signals:
    known = {lane: LaneState.READY for lane in (A, B, C, D)} | dict(states or {})
    return Signals(
        at_s=0.0,
        lanes={lane: LaneSignals(lane, state, 0.0) for lane, state in known.items()},
        load={lane: LaneLoad() for lane in known} | dict(load or {}),
    )


@pytest.mark.parametrize("name", sorted(ROUTERS))
@given(states=states, load=loads, pairs=pair_sets)
def test_a_decision_uses_ready_lanes_and_a_configured_pair_if_one_is_ready(
    name: str, states: dict[LaneId, LaneState], load: dict[LaneId, LaneLoad], pairs: Pairs
) -> None:
    router = build(name, pairs)
    snapshot = signals(states, load)
    ready = {lane for lane, state in states.items() if state is LaneState.READY}
    if not ready:
        with pytest.raises(NoLane):
            router.route(REQUEST, snapshot)
        return
    decision = router.route(REQUEST, snapshot)
    assert {decision.prefill, decision.decode} <= ready
    assert decision.router == name
    configured = [pair for pair in pairs if ready.issuperset(pair)]
    assert ("degraded" in decision.reason) is (not configured)
    if configured:
        assert (decision.prefill, decision.decode) in configured
    else:
        assert not decision.disaggregated


def test_no_lane_says_what_state_each_lane_is_in() -> None:
    down = {A: LaneState.LOST, B: LaneState.STARTING, C: LaneState.STOPPED, D: LaneState.LOST}
    with pytest.raises(NoLane, match=r"a lost, b starting, c stopped, d lost.*retry"):
        RoundRobin(TWO_PAIRS).route(REQUEST, signals(down))


def test_half_a_pair_left_serves_alone() -> None:
    router = RoundRobin(((A, B),))
    lost = {lane: LaneState.LOST for lane in (B, C, D)}
    decision = router.route(REQUEST, signals(lost))
    assert (decision.prefill, decision.decode) == (A, A)
    assert decision.reason == "degraded: no configured pair is ready"


@given(pairs=pair_sets, rounds=st.integers(1, 50))
def test_round_robin_is_fair(pairs: Pairs, rounds: int) -> None:
    router = RoundRobin(pairs)
    decisions = [router.route(REQUEST, signals()) for _ in range(rounds)]
    chosen = Counter((decision.prefill, decision.decode) for decision in decisions)
    turns = [chosen[pair] for pair in pairs]
    assert max(turns) - min(turns) <= 1


def test_round_robin_goes_on_fairly_after_a_pair_was_away() -> None:
    router = RoundRobin(TWO_PAIRS)
    for _ in range(5):
        assert router.route(REQUEST, signals({A: LaneState.LOST})).prefill == C
    assert [router.route(REQUEST, signals()).prefill for _ in range(4)] == [A, C, A, C]


@given(load=loads, pairs=pair_sets)
def test_least_loaded_has_no_cheaper_candidate(load: dict[LaneId, LaneLoad], pairs: Pairs) -> None:
    def work(lane: LaneId) -> float:
        return load[lane].prefill_tokens + DECODE_COST_TOKENS * load[lane].decode_requests

    decision = LeastLoaded(pairs).route(REQUEST, signals(load=load))
    least = min(work(prefill) + work(decode) for prefill, decode in pairs)
    assert work(decision.prefill) + work(decision.decode) == least
    assert sum(decision.scores.values()) == least


@pytest.mark.parametrize(
    "load",
    [
        {A: LaneLoad(prefill_requests=1, prefill_tokens=500)},
        {B: LaneLoad(decode_requests=1)},
        {A: LaneLoad(decode_requests=1)},
        {B: LaneLoad(prefill_tokens=500), D: LaneLoad(decode_requests=1)},
    ],
    ids=["queued prompt", "decoding", "prefill lane decodes too", "both"],
)
def test_least_loaded_avoids_work_of_either_kind_on_either_lane(load: dict[LaneId, LaneLoad]) -> None:
    router = LeastLoaded(TWO_PAIRS)
    assert [router.route(REQUEST, signals(load=load)).prefill for _ in range(3)] == [C, C, C]


def test_least_loaded_breaks_ties_in_turn() -> None:
    router = LeastLoaded(TWO_PAIRS)
    assert [router.route(REQUEST, signals()).prefill for _ in range(4)] == [A, C, A, C]


def test_an_unknown_router_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'fastest'.*least_loaded, round_robin"):
        build("fastest", TWO_PAIRS)
