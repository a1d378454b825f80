"""FlowGuard: splits where it pays, keeps off hot and doubtful lanes, and says why."""

from collections import Counter
from typing import Any

import pytest

from streamserve.config import FlowGuardConfig
from streamserve.errors import ConfigError
from streamserve.flowguard.flowguard import BEST, FlowGuard
from streamserve.flowguard.scorers import SCORERS
from streamserve.signals import Averages, LaneLoad, StepCost
from streamserve.types import Finish, LaneId, LaneState, Slo
from tests.fakes import make_request
from tests.flowguard.snapshots import COST, LANES, A, B, every_pair, lane, result, signals

TWO = (A, B)
ALONE = ((A, A), (B, B))
LONG = tuple(range(1024))
SHORT = tuple(range(5000, 5020))


def request(prompt: tuple[int, ...] = SHORT, id: str = "r", max_tokens: int = 128, **fields: Any) -> Any:
    return make_request(id, prompt, max_tokens, continuable=True, **fields)


def test_a_long_prompt_keeps_away_from_a_lane_with_many_decodes() -> None:
    busy = {A: LaneLoad(decode_requests=8)}
    decision = FlowGuard(every_pair(TWO)).route(request(LONG), signals(lane(A), lane(B), load=busy))
    assert decision.prefill == B


def test_it_splits_where_that_pays_and_says_what_it_saves() -> None:
    # A prefills cheaply and has decodes to do; B decodes fast and computes prompts slowly.
    prefiller = lane(A, cost=StepCost(((1, 0.2), (64, 2.0)), 0.0005, steps=100))
    decoder = lane(B, cost=StepCost(((1, 0.02), (64, 0.1)), 0.02, steps=100))
    decision = FlowGuard(every_pair(TWO)).route(request(LONG), signals(prefiller, decoder))
    assert (decision.prefill, decision.decode) == (A, B)
    assert decision.reason.startswith("split: saves ")
    alone = [one for one in decision.candidates if one.prefill == one.decode]
    assert decision.prediction is not None
    assert all(one.prediction and one.prediction.e2e_s > decision.prediction.e2e_s for one in alone)


@pytest.mark.parametrize("prompt", [SHORT, LONG])
def test_idle_equal_lanes_serve_alone(prompt: tuple[int, ...]) -> None:
    decision = FlowGuard(every_pair(TWO)).route(request(prompt), signals(lane(A), lane(B)))
    assert not decision.disaggregated
    assert decision.reason == "both on a"


def test_a_dear_transfer_keeps_a_request_together() -> None:
    busy = {A: LaneLoad(decode_requests=6)}

    def split(transfer_s: float) -> bool:
        lanes = [lane(id, transfer_s=Averages(transfer_s, transfer_s)) for id in TWO]
        return FlowGuard(((A, A), (B, A))).route(request(LONG), signals(*lanes, load=busy)).disaggregated

    assert split(0.001)
    assert not split(30.0)


def test_a_hot_lane_with_the_prompt_in_its_cache_loses_against_an_idle_one() -> None:
    router = FlowGuard(ALONE)
    first = router.route(request(LONG), signals(lane(A), lane(B))).prefill
    other = B if first == A else A
    again = router.route(request(LONG), signals(lane(A), lane(B)))
    assert again.prefill == first
    assert again.prediction is not None and again.prediction.cached_tokens == 1008
    hot = {first: LaneLoad(prefill_requests=8, prefill_tokens=6000, decode_requests=40)}
    assert router.route(request(LONG), signals(lane(A), lane(B), load=hot)).prefill == other


def test_one_shared_prompt_does_not_pile_onto_one_lane() -> None:
    router = FlowGuard(every_pair())
    load = dict.fromkeys(LANES, 0)
    for number in range(60):
        known = {id: LaneLoad(decode_requests=requests) for id, requests in load.items()}
        load[router.route(request(LONG, f"r{number}"), signals(load=known)).decode] += 1
    assert max(load.values()) <= 2 * 60 / len(LANES)


def test_a_restarted_lane_has_no_cache_and_is_avoided_for_a_while() -> None:
    router = FlowGuard(ALONE)
    first = router.route(request(LONG), signals(lane(A), lane(B))).prefill
    other = B if first == A else A

    def after(at_s: float) -> Any:
        lanes = [lane(id, at_s, restarts=int(id == first)) for id in TWO]
        return router.route(request(LONG), signals(*lanes, at_s=at_s))

    doubted = after(1.0)
    assert doubted.prefill == other
    assert f"{first} (just restarted)" in doubted.reason
    assert {one.prediction.cached_tokens for one in after(10.0).candidates if one.prefill == first} == {0}


def test_an_error_casts_doubt_until_a_good_result() -> None:
    router = FlowGuard(ALONE)
    bad = router.route(request(), signals(lane(A), lane(B)))
    router.learn(result(bad, finish=Finish.ERROR, error="lost", lane_failed=True))
    chosen = [router.route(request(), signals(lane(A), lane(B))).prefill for _ in range(10)]
    assert bad.prefill not in chosen
    router.learn(result(bad))
    assert bad.prefill in [router.route(request(), signals(lane(A), lane(B))).prefill for _ in range(10)]


def test_an_error_of_what_was_asked_casts_no_doubt() -> None:
    router = FlowGuard(ALONE)
    asked = router.route(request(), signals(lane(A), lane(B)))
    router.learn(result(asked, finish=Finish.ERROR, error="not a text"))
    assert "doubts" not in router.route(request(), signals(lane(A), lane(B))).reason


def test_a_suspect_gets_its_share_of_probes() -> None:
    router = FlowGuard(ALONE, FlowGuardConfig(probe_share=0.05))
    bad = router.route(request(), signals(lane(A), lane(B)))
    router.learn(result(bad, finish=Finish.ERROR, error="lost", lane_failed=True))
    decisions = [router.route(request(), signals(lane(A), lane(B))) for _ in range(100)]
    probes = [decision for decision in decisions if decision.prefill == bad.prefill]
    assert len(probes) == 5
    assert all(probe.reason.startswith(f"probe of {bad.prefill}: its last result was an error") for probe in probes)


def test_everybody_under_suspicion_serves_as_before() -> None:
    router = FlowGuard(ALONE)
    for _ in range(2):
        bad = router.route(request(), signals(lane(A), lane(B)))
        router.learn(result(bad, finish=Finish.ERROR, error="lost", lane_failed=True))
    counts = Counter(router.route(request(), signals(lane(A), lane(B))).prefill for _ in range(40))
    assert set(counts.values()) == {20}


def test_a_lane_that_fails_everything_gets_nothing_because_it_has_room() -> None:
    router = FlowGuard(ALONE)
    bad = router.route(request(), signals(lane(A), lane(B)))
    router.learn(result(bad, finish=Finish.ERROR, error="lost", lane_failed=True))
    assert router.route(request(), signals(lane(A), lane(B), room=[bad.prefill])).prefill != bad.prefill


def test_a_lane_is_slow_only_after_several_results_in_a_row() -> None:
    router = FlowGuard(ALONE)
    decision = router.route(request(), signals(lane(A), lane(B)))
    for number in range(3):
        doubted = router.route(request(), signals(lane(A), lane(B))).reason
        assert "slower" not in doubted, number
        router.learn(result(decision, request_id=f"other-{number}", tpot_s=1.0))
    assert (
        f"{decision.decode} (much slower than predicted)" in router.route(request(), signals(lane(A), lane(B))).reason
    )


def test_a_silent_lane_with_work_is_avoided_and_not_probed_but_an_idle_one_may_be_silent() -> None:
    router = FlowGuard(ALONE, FlowGuardConfig(probe_share=1.0))
    work = {A: LaneLoad(decode_requests=1), B: LaneLoad(decode_requests=9)}
    assert "silent" not in router.route(request(), signals(lane(A, 0.0), lane(B, 100.0), load=work, at_s=100.0)).reason
    for at_s in (102.5, 103.0, 103.5):
        decision = router.route(request(), signals(lane(A, 0.0), lane(B, at_s), load=work, at_s=at_s))
        assert (decision.prefill, decision.reason) == (B, "both on b; doubts a (silent though it has work)")
    idle = router.route(request(), signals(lane(A, 0.0), lane(B, 104.0), load={B: work[B]}, at_s=104.0))
    assert idle.prefill == A


def test_a_lane_in_a_step_of_many_prompt_tokens_is_not_silent_before_that_could_be_over() -> None:
    router = FlowGuard(ALONE)
    # Of the 9,000 tokens a step takes 2,048, at 2 ms each.
    work = {A: LaneLoad(prefill_requests=3, prefill_tokens=9000), B: LaneLoad(decode_requests=9)}

    def reason(at_s: float) -> str:
        return router.route(request(), signals(lane(A, 0.0), lane(B, at_s), load=work, at_s=at_s)).reason

    reason(0.0)
    assert "silent" not in reason(2.0 + 2 * 2048 * 0.002)
    assert "doubts a (silent though it has work)" in reason(2.2 + 2 * 2048 * 0.002)


def test_predictions_follow_a_lane_that_is_slower_than_its_costs_say() -> None:
    router = FlowGuard(ALONE)
    actual_s = 1.5 * COST.decode_step_s(2)
    for number in range(60):
        decision = router.route(request(id=f"r{number}"), signals(lane(A), lane(B, state=LaneState.LOST)))
        router.learn(result(decision, request_id=f"r{number}", tpot_s=actual_s, output_tokens=90))
    decision = router.route(request(), signals(lane(A), lane(B)))
    assert decision.decode == B
    predicted = {one.decode: one.prediction for one in decision.candidates}
    slower, faster = predicted[A], predicted[B]
    assert slower is not None and faster is not None
    assert slower.tpot_s / faster.tpot_s == pytest.approx(1.5, rel=0.05)


def test_a_lane_that_has_learned_nothing_costs_what_the_others_do() -> None:
    new = lane(A, cost=StepCost(((1, 9.0),), 1.0, steps=0))
    decision = FlowGuard(ALONE).route(request(), signals(new, lane(B)))
    first, second = (one.prediction for one in decision.candidates)
    assert first == second


def test_a_wish_for_ttft_outweighs_a_better_mean() -> None:
    # A has a prompt to do first, B decodes slowly.
    prompts = {A: LaneLoad(prefill_requests=1, prefill_tokens=500)}
    lanes = [lane(A), lane(B, cost=StepCost(((1, 0.055), (64, 0.3)), 0.002, steps=100))]
    assert FlowGuard(ALONE).route(request(), signals(*lanes, load=prompts)).prefill == A
    hurried = request(slo=Slo(ttft_s=0.3))
    assert FlowGuard(ALONE).route(hurried, signals(*lanes, load=prompts)).prefill == B


def test_ties_go_to_the_pair_chosen_longest_ago() -> None:
    router = FlowGuard(tuple((id, id) for id in LANES))
    chosen = [router.route(make_request(f"r{n}", (n,)), signals()).prefill for n in range(8)]
    assert chosen == [*LANES, *LANES]


def test_a_decision_tells_scores_prediction_and_the_best_candidates() -> None:
    decision = FlowGuard(every_pair()).route(request(LONG), signals(at_s=3.0))
    assert decision.at_s == 3.0
    assert set(decision.scores) == set(SCORERS)
    assert all(0 <= score <= 1 for one in decision.candidates for score in (one.score, *one.scores.values()))
    assert len(decision.candidates) == BEST
    best = decision.candidates[0]
    assert (best.prefill, best.decode, best.prediction) == (decision.prefill, decision.decode, decision.prediction)
    assert decision.prediction is not None
    assert decision.prediction.e2e_s > decision.prediction.ttft_s > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FlowGuardConfig(weights={"latnecy": 1.0}), "no scorer 'latnecy'; known: latency, slo"),
        (FlowGuardConfig(weights={"latency": float("nan")}), "weights.latency must be a number from 0 on"),
        (FlowGuardConfig(weights={"queue": -1.0}), "weights.queue must be a number from 0 on"),
        (FlowGuardConfig(weights=dict.fromkeys(SCORERS, 0.0)), "at least one scorer"),
        (FlowGuardConfig(stale_s=0.0), "stale_s must be above 0"),
        (FlowGuardConfig(probe_share=0.0), "probe_share must be above 0"),
        (FlowGuardConfig(probe_share=float("nan")), "probe_share must be above 0"),
    ],
)
def test_a_configuration_that_cannot_work_says_so(config: FlowGuardConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FlowGuard(every_pair(), config)


def test_a_weight_of_zero_turns_a_scorer_off() -> None:
    full = [lane(A, kv_used=0.99), lane(B)]
    work = {B: LaneLoad(decode_requests=1)}
    weights = dict.fromkeys(SCORERS, 0.0)
    by_room = FlowGuard(ALONE, FlowGuardConfig(weights=weights | {"kv_headroom": 1.0}))
    by_queue = FlowGuard(ALONE, FlowGuardConfig(weights=weights | {"prefill_batch": 1.0}))
    decision = by_room.route(request(), signals(*full, load=work))
    assert (decision.prefill, set(decision.scores)) == (B, {"kv_headroom"})
    assert by_queue.route(request(), signals(*full, load=work)).prefill == A


@pytest.mark.parametrize("pairs", ["all", "own", "ring"])
def test_many_lanes_are_pruned_to_the_cheapest_that_may_be_paired(pairs: str) -> None:
    ids = [LaneId(f"lane-{place}") for place in range(80)]
    ring = {"all": every_pair(ids), "own": tuple((id, id) for id in ids)}
    configured = ring.get(pairs, tuple(zip(ids, ids[1:] + ids[:1], strict=True)))
    idle = {ids[70], ids[71]}
    load = {id: LaneLoad(1, 500, 9) for id in ids if id not in idle}
    decision = FlowGuard(configured).route(request(), signals(*[lane(id) for id in ids], load=load))
    assert (decision.prefill, decision.decode) in configured
    assert {decision.prefill, decision.decode} <= idle
