"""What every router must do, whatever its rule."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.errors import NoLane
from streamserve.flowguard.pairs import Pairs
from streamserve.flowguard.routers import ROUTERS, build
from streamserve.signals import Averages, DepthControl, DeviceSignals, LaneLoad, LaneSignals, Signals, StepCost
from streamserve.types import Decision, Finish, LaneId, LaneState, Request, Slo
from tests.fakes import make_request
from tests.flowguard.snapshots import LANES, A, B, C, every_pair, lane, result, signals

NAMES = sorted(ROUTERS)

shares = st.floats(0, 1)
counts = st.integers(0, 100)
latencies = st.none() | st.floats(0, 10)
costs = st.builds(
    StepCost,
    st.sampled_from([((1, 0.03), (64, 0.2)), ((1, 0.001),), ((2, 0.01), (4, 0.02), (8, 0.1))]),
    st.floats(0, 0.1),
    counts,
)
any_state = st.sampled_from(LaneState)


def lanes(id: LaneId, state: st.SearchStrategy[LaneState]) -> st.SearchStrategy[LaneSignals]:
    fields: dict[str, st.SearchStrategy[Any]] = {
        "running": counts,
        "waiting": counts,
        "kv_used": shares | st.just(float("nan")),
        "kv_tokens": st.sampled_from([0, 64, 65_536]),
        "block_tokens": st.sampled_from([1, 16]),
        "cost": costs,
        "draft_tokens_total": counts,
        "accepted_tokens_total": counts,
        "step_output": st.floats(0, 9),
        "depth": st.none() | st.just(DepthControl()),
        "transfer_s": st.builds(Averages, latencies, latencies),
        "device": st.builds(
            DeviceSignals, gpu_memory_used=st.none() | shares, gpu_celsius=st.none() | st.floats(0, 120)
        ),
        "restarts": st.integers(0, 2),
    }
    return st.builds(LaneSignals, st.just(id), state, st.floats(-1000, 10), **fields)


loads = st.builds(LaneLoad, st.integers(0, 9), st.integers(0, 9000), st.integers(0, 50))
snapshots = st.builds(
    Signals,
    st.floats(0, 10),
    st.fixed_dictionaries({id: lanes(id, any_state) for id in LANES}),
    st.fixed_dictionaries({id: loads for id in LANES}),
    room=st.none() | st.frozensets(st.sampled_from(LANES)),
)
pair_sets = st.lists(st.tuples(*[st.sampled_from(LANES)] * 2), min_size=1, max_size=16, unique=True).map(tuple)
requests = st.builds(
    make_request,
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    max_tokens=st.integers(1, 4096),
    splittable=st.booleans(),
    continuable=st.booleans(),
    slo=st.builds(Slo, latencies, latencies),
)


@settings(max_examples=25, deadline=None)
@given(pairs=pair_sets, moments=st.lists(st.tuples(requests, snapshots), min_size=1, max_size=3))
def test_a_decision_uses_ready_lanes_and_a_configured_pair_if_one_is_ready(
    pairs: Pairs, moments: list[tuple[Request, Signals]]
) -> None:
    for name in NAMES:
        router = build(name, pairs)
        for request, snapshot in moments:
            ready = {id for id in LANES if snapshot.ready(id)}
            if ready:
                check(name, router.route(request, snapshot), request, snapshot, pairs)
            else:
                with pytest.raises(NoLane):
                    router.route(request, snapshot)


def check(name: str, decision: Decision, request: Request, snapshot: Signals, pairs: Pairs) -> None:
    ready = {id for id in LANES if snapshot.ready(id)}
    chosen = (decision.prefill, decision.decode)
    assert set(chosen) <= ready
    assert (decision.router, decision.at_s) == (name, snapshot.at_s)
    assert all(math.isfinite(score) for score in decision.scores.values())
    configured = [pair for pair in pairs if ready.issuperset(pair)]
    assert ("degraded" in decision.reason) is (not configured)
    if not configured:
        assert not decision.disaggregated
        return
    assert chosen in configured
    if not request.splittable and any(prefill == decode for prefill, decode in configured):
        assert not decision.disaggregated


@pytest.mark.parametrize("name", NAMES)
def test_no_lane_says_what_state_each_lane_is_in(name: str) -> None:
    down = signals(lane(A, state=LaneState.LOST), lane(B, state=LaneState.STARTING), lane(C, state=LaneState.STOPPED))
    with pytest.raises(NoLane, match=r"a lost, b starting, c stopped.*retry"):
        build(name, every_pair((A, B, C))).route(make_request(), down)


@pytest.mark.parametrize("name", NAMES)
def test_half_a_pair_left_serves_alone(name: str) -> None:
    decision = build(name, ((A, B),)).route(make_request(), signals(lane(A), lane(B, state=LaneState.LOST)))
    assert (decision.prefill, decision.decode) == (A, A)
    assert decision.reason == "degraded: no configured pair is ready"


@settings(max_examples=40, deadline=None)
@given(
    pairs=pair_sets,
    load=st.fixed_dictionaries({id: loads for id in LANES}),
    room=st.frozensets(st.sampled_from(LANES)),
)
def test_the_prefill_lane_has_room_unless_none_has(
    pairs: Pairs, load: dict[LaneId, LaneLoad], room: frozenset[LaneId]
) -> None:
    for name in NAMES:
        decision = build(name, pairs).route(make_request(), signals(load=load, room=room))
        if room & {prefill for prefill, _ in pairs}:
            assert decision.prefill in room, name


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_that_must_be_split_takes_a_request_that_should_not_be(name: str) -> None:
    decision = build(name, ((A, B),)).route(make_request(splittable=False), signals())
    assert (decision.prefill, decision.decode) == (A, B)


@pytest.mark.parametrize("name", NAMES)
def test_signals_that_never_come_stop_nobody_and_pile_nothing_up(name: str) -> None:
    router = build(name, every_pair())
    load = dict.fromkeys(LANES, 0)
    for number in range(40):
        silent = [lane(id, at_s=-1e6) for id in LANES]
        known = {id: LaneLoad(decode_requests=requests) for id, requests in load.items()}
        decision = router.route(make_request(f"r{number}"), signals(*silent, load=known, at_s=0.1 * number))
        load[decision.decode] += 1
    assert max(load.values()) < 40 / 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("finish", list(Finish))
def test_any_result_can_be_learned(name: str, finish: Finish) -> None:
    router = build(name, every_pair())
    decision = router.route(make_request(), signals())
    router.learn(result(decision, finish=finish))
    router.learn(result(decision, finish=finish))
    router.learn(result(decision, finish=finish, first_token_s=None, output_tokens=1))
    router.learn(result(decision, finish=finish, request_id="unknown", ttft_s=-1.0, tpot_s=-1.0, attempts=2))
    router.learn(result(decision, finish=finish, ttft_s=0.0, tpot_s=0.0, error="why"))
    assert router.route(make_request("next"), signals()).prefill in LANES
