"""Routers: each one's own rule, and how they are found by name."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve import flowguard
from streamserve.config import FlowGuardConfig
from streamserve.errors import ConfigError
from streamserve.flowguard.affinity import LMetric, PrefixAffinity
from streamserve.flowguard.balancing import DECODE_COST_TOKENS, LeastLoaded, PowerOfTwo, VllmDp
from streamserve.flowguard.blind import Random, RoundRobin
from streamserve.flowguard.foresight import PredictedLatency
from streamserve.flowguard.pairs import Pairs
from streamserve.flowguard.routers import build
from streamserve.signals import LaneLoad, StepCost
from streamserve.types import LaneId, LaneState
from tests.fakes import make_request
from tests.flowguard.snapshots import LANES, A, B, C, D, every_pair, lane, signals

TWO_PAIRS: Pairs = ((A, B), (C, D))
ALONE: Pairs = ((A, A), (B, B))
REQUEST = make_request()
LONG = tuple(range(160))

loads = st.fixed_dictionaries(
    {id: st.builds(LaneLoad, st.integers(0, 9), st.integers(0, 9000), st.integers(0, 50)) for id in LANES}
)
pair_sets = st.lists(st.tuples(*[st.sampled_from(LANES)] * 2), min_size=1, max_size=16, unique=True).map(tuple)


@given(pairs=pair_sets, rounds=st.integers(1, 50))
def test_round_robin_is_fair(pairs: Pairs, rounds: int) -> None:
    router = RoundRobin(pairs)
    decisions = [router.route(REQUEST, signals()) for _ in range(rounds)]
    chosen = Counter((decision.prefill, decision.decode) for decision in decisions)
    turns = [chosen[pair] for pair in pairs]
    assert max(turns) - min(turns) <= 1


def test_round_robin_begins_in_the_order_of_the_configuration() -> None:
    router = RoundRobin(((C, D), (A, B)))
    assert [router.route(REQUEST, signals()).prefill for _ in range(3)] == [C, A, C]


def test_round_robin_goes_on_fairly_after_a_pair_was_away() -> None:
    router = RoundRobin(TWO_PAIRS)
    away = signals(lane(A, state=LaneState.LOST), lane(B), lane(C), lane(D))
    for _ in range(5):
        assert router.route(REQUEST, away).prefill == C
    assert [router.route(REQUEST, signals()).prefill for _ in range(4)] == [A, C, A, C]


def test_random_draws_every_pair_and_the_same_ones_from_the_same_seed() -> None:
    def drawn(seed: int) -> list[tuple[LaneId, LaneId]]:
        router = Random(every_pair(), seed)
        return [(one.prefill, one.decode) for one in (router.route(REQUEST, signals()) for _ in range(400))]

    assert drawn(1) == drawn(1) != drawn(2)
    assert min(Counter(drawn(1))[pair] for pair in every_pair()) >= 10


@settings(max_examples=50)
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


@settings(max_examples=50)
@given(load=loads, seed=st.integers(0, 99))
def test_power_of_two_never_takes_the_fullest_of_several(load: dict[LaneId, LaneLoad], seed: int) -> None:
    pairs = tuple((id, id) for id in LANES)
    requests = {id: load[id].requests for id in LANES}
    fullest = max(LANES, key=lambda id: requests[id])
    decision = PowerOfTwo(pairs, seed).route(REQUEST, signals(load=load))
    assert decision.prefill != fullest or sum(count == requests[fullest] for count in requests.values()) > 1


def test_vllm_dp_counts_a_waiting_request_four_times() -> None:
    waits, runs = lane(A, waiting=2), lane(B, running=7)
    assert VllmDp(ALONE).route(REQUEST, signals(waits, runs)).prefill == B
    assert VllmDp(ALONE).route(REQUEST, signals(waits, lane(B, running=9))).prefill == A


def test_vllm_dp_believes_its_own_count_of_requests_in_flight_over_an_older_report() -> None:
    load = {A: LaneLoad(decode_requests=5)}
    assert VllmDp(ALONE).route(REQUEST, signals(lane(A), lane(B, running=3), load=load)).prefill == B


def test_lmetric_weighs_cached_tokens_against_the_batch() -> None:
    router = LMetric(ALONE)
    request = make_request(prompt=LONG)
    first = router.route(request, signals(lane(A), lane(B))).prefill
    other = B if first == A else A
    assert router.route(request, signals(lane(A), lane(B), load={first: LaneLoad(decode_requests=5)})).prefill == first
    # 16 of 160 tokens are left to compute where it is cached: worth a batch ten times as large, not twenty.
    assert router.route(make_request(prompt=range(500, 660)), signals(lane(A), lane(B))).prefill == other
    assert router.route(request, signals(lane(A), lane(B), load={first: LaneLoad(decode_requests=20)})).prefill == other


def test_prefix_affinity_stays_with_the_cache_until_the_lanes_are_far_apart() -> None:
    router = PrefixAffinity(ALONE)
    request = make_request(prompt=LONG)
    first = router.route(request, signals(lane(A), lane(B))).prefill
    other = B if first == A else A
    hot = {first: LaneLoad(decode_requests=64)}
    assert router.route(request, signals(lane(A), lane(B), load=hot)).prefill == first
    hotter = {first: LaneLoad(decode_requests=65)}
    assert router.route(request, signals(lane(A), lane(B), load=hotter)).prefill == other


def test_prefix_affinity_needs_three_tenths_of_the_prompt() -> None:
    router = PrefixAffinity(ALONE)
    first = router.route(make_request(prompt=LONG), signals(lane(A), lane(B))).prefill
    load = {first: LaneLoad(decode_requests=1)}
    mostly_new = make_request(prompt=(*LONG[:32], *range(1000, 1128)))
    assert router.route(mostly_new, signals(lane(A), lane(B), load=load)).prefill != first


def test_predicted_latency_takes_the_faster_lane_and_says_what_it_expects() -> None:
    slow = StepCost(((1, 0.08), (64, 0.4)), 0.004, steps=100)
    decision = PredictedLatency(ALONE).route(REQUEST, signals(lane(A, cost=slow), lane(B)))
    assert decision.prefill == B
    assert decision.prediction is not None
    assert 0 < decision.prediction.ttft_s < decision.prediction.e2e_s


def test_an_unknown_router_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'fastest'.*flowguard, least_loaded, lmetric.*package.module.Class"):
        build("fastest", TWO_PAIRS)


def test_flowguard_is_given_its_configuration() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        build("flowguard", TWO_PAIRS, FlowGuardConfig(weights={"nonsense": 1.0}))


def test_the_example_in_the_readme_routes() -> None:
    readme = (Path(flowguard.__file__).parent / "README.md").read_text()
    example: dict[str, Any] = {}
    exec(readme.split("```python\n")[1].split("```")[0], example)
    load = {B: LaneLoad(decode_requests=1)}
    assert example["Shortest"](TWO_PAIRS).route(REQUEST, signals(load=load)).prefill == C


MINE = """
from streamserve.flowguard.blind import RoundRobin

class Mine(RoundRobin):
    name = "mine"

class Mute:
    def __init__(self, pairs):
        self.route = print

class Greedy:
    def __init__(self, pairs, more):
        pass

number = 7
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_router.py").write_text(MINE)
    (tmp_path / "my_broken.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_router", raising=False)


@pytest.mark.usefixtures("mine")
def test_a_router_of_the_users_own_is_named_by_its_dotted_path() -> None:
    decision = build("my_router.Mine", TWO_PAIRS).route(REQUEST, signals())
    assert (decision.prefill, decision.router) == (A, "mine")


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module.Mine", "cannot import 'no_such_module'.*PYTHONPATH"),
        ("my_broken.Mine", "cannot import 'my_broken'.*no_such_library"),
        ("my_router.Absent", "no class 'Absent'"),
        ("my_router.number", "not a class"),
        ("my_router.Mute", "lacks learn"),
        ("my_router.Greedy", "must take the pairs alone"),
        (".Mine", "cannot import ''"),
    ],
)
def test_a_router_that_cannot_be_made_says_why(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(path, TWO_PAIRS)
