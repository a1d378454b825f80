"""A policy on top of FlowGuard: untrained it is FlowGuard, and the guard gives every doubtful answer back to it."""

import dataclasses
import logging
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from streamserve.config import PolicyConfig
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.metrics.policy import Fallback, PolicyTally
from streamserve.policy.card import Bounds, Kind
from streamserve.policy.guard import Guard
from streamserve.policy.learned import LearnedRouter
from streamserve.policy.mode import Mode, Way, parse
from streamserve.policy.rhythm import Rhythm
from streamserve.policy.store import Policy
from streamserve.types import Decision, Finish, LaneId, Result
from tests.policy.policies import PAIRS, choosing, make_card, make_policy, moments

LEARNED, SHADOW = Mode(Way.LEARNED), Mode(Way.SHADOW)


class Bench:
    """A router over a policy, and FlowGuard alone beside it."""

    def __init__(
        self, policy: Policy, mode: Mode = LEARNED, timer: Callable[[], float] = lambda: 0.0, **config: Any
    ) -> None:
        self.tally = PolicyTally()
        guard = Guard(PolicyConfig(**config), policy.card.envelope, timer)
        self.router = LearnedRouter(FlowGuard(PAIRS), policy, mode, guard, Rhythm(), self.tally)
        self.alone = FlowGuard(PAIRS)

    def decide(self, moments_s: int = 100, seed: int = 0) -> list[tuple[Decision, Decision]]:
        """What both decide at the same moments; FlowGuard is told of what happened to each."""
        decided = []
        for request, signals in moments(moments_s, seed):
            learned, alone = self.router.route(request, signals), self.alone.route(request, signals)
            decided.append((learned, alone))
            self.router.learn(ended(request.id, learned))
            self.alone.learn(ended(request.id, alone))
        return decided


def ended(id: str, decision: Decision, e2e_s: float = 2.0, finish: Finish = Finish.LENGTH) -> Result:
    return Result(id, decision, 10, 20, decision.at_s, decision.at_s + e2e_s, finish, decision.at_s + 0.1)


def where(decision: Decision) -> tuple[LaneId, LaneId, int | None]:
    return decision.prefill, decision.decode, decision.max_depth


@pytest.mark.parametrize("kind", ["route", "serve"])
@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_policy_is_flowguard(kind: Kind, seed: int) -> None:
    bench = Bench(make_policy(kind, seed))
    decided = bench.decide(100, seed)
    assert len(decided) > 75
    for learned, alone in decided:
        assert where(learned) == where(alone)
        assert learned.prediction == alone.prediction
        assert learned.router == "learned"
    assert bench.tally.decisions == {("learned", "policy"): len(decided)}
    assert (bench.tally.agreed, bench.tally.asked) == (len(decided), len(decided))


def test_a_trained_one_goes_its_own_way_and_says_so() -> None:
    bench = Bench(make_policy(trained=True, kappa=10.0, tau=0.5), rho=1e9)
    decided = bench.decide()
    others = [learned for learned, alone in decided if where(learned)[:2] != where(alone)[:2]]
    assert others
    assert any("policy test: instead of" in learned.reason for learned in others)
    assert 0 < bench.tally.agreed < bench.tally.asked == len(decided)


def test_a_route_policy_sets_no_depth() -> None:
    assert {where(learned)[2] for learned, _ in Bench(make_policy("route", trained=True), rho=1e9).decide()} == {None}


def test_a_serve_policy_caps_the_depth_where_a_lane_speculates() -> None:
    caps = {where(learned)[2] for learned, _ in Bench(choosing(2)).decide()}
    assert caps == {None, 2}


def test_shadow_decides_as_flowguard_and_tells_what_it_would_have_done() -> None:
    bench = Bench(make_policy(trained=True, kappa=10.0, tau=0.5), SHADOW, rho=1e9)
    decided = bench.decide()
    for learned, alone in decided:
        assert where(learned) == where(alone)
        assert learned.router == "flowguard"
        assert learned.reason.startswith(alone.reason)
        assert "; policy test would" in learned.reason
    assert bench.tally.decisions == {("shadow", "heuristic"): len(decided)}
    assert bench.tally.asked == len(decided)
    # By FlowGuard's own predictions its choices are about the cheapest.
    assert bench.tally.shadow_gain_s < 0


class TestFallbacks:
    def fallbacks(self, bench: Bench, reason: Fallback) -> None:
        """Every decision falls back for this reason."""
        decided = bench.decide(30)
        for learned, alone in decided:
            assert where(learned) == where(alone)
            assert learned.router == "flowguard"
            assert learned.reason == f"{alone.reason}; not by policy test: {reason}"
        assert bench.tally.fallbacks == {reason: len(decided)}
        assert bench.tally.decisions == {("learned", "heuristic"): len(decided)}

    def test_an_observation_outside_the_envelope(self) -> None:
        card = make_card()
        narrow = {name: Bounds([5.0] * len(each.low), [6.0] * len(each.low)) for name, each in card.envelope.items()}
        policy = Policy(make_card(envelope=narrow), make_policy(trained=True).weights)
        self.fallbacks(Bench(policy), Fallback.OUTSIDE)

    def test_an_output_that_is_not_finite(self) -> None:
        policy = make_policy()
        policy.weights.b2[0] = np.nan
        self.fallbacks(Bench(policy), Fallback.NOT_FINITE)

    def test_an_error_is_logged_and_the_heuristic_serves(self, caplog: pytest.LogCaptureFixture) -> None:
        policy = make_policy(trained=True)
        broken = dataclasses.replace(policy.weights, W1=policy.weights.W1[:, :-1])
        with caplog.at_level(logging.ERROR):
            self.fallbacks(Bench(Policy(policy.card, broken)), Fallback.FAILED)
        assert "policy test failed on a request" in caplog.text

    def test_a_choice_that_is_predicted_to_cost_much_more(self) -> None:
        bench = Bench(make_policy(trained=True, kappa=10.0, tau=0.5), rho=1.0)
        cautious = bench.decide()
        assert bench.tally.fallbacks[Fallback.COSTLY] > 0
        for learned, alone in cautious:
            assert learned.router == "learned" or where(learned) == where(alone)

    def test_slow_answers_are_dropped_and_pauses_begin(self) -> None:
        ticks = count()
        bench = Bench(make_policy(), timer=lambda: 0.001 * next(ticks), budget_us=500, cooldown=3)
        decided = bench.decide(60)
        # The first answer on a number of pairs, one or four here, is not timed.
        assert [learned.router for learned, _ in decided].count("learned") <= 2
        late, cooling = bench.tally.fallbacks[Fallback.OVER_BUDGET], bench.tally.fallbacks[Fallback.COOLING]
        assert late + cooling >= len(decided) - 2
        assert cooling == pytest.approx(1.5 * late, abs=4)


class TestCanary:
    def test_a_share_goes_to_the_policy(self) -> None:
        bench = Bench(make_policy(), parse("canary:0.5"))
        decided = bench.decide(200)
        share = sum(learned.router == "learned" for learned, _ in decided) / len(decided)
        assert share == pytest.approx(0.5, abs=0.15)
        assert set(bench.tally.decisions) == {("canary", "policy"), ("canary", "heuristic")}

    def serve(self, factor: float, finish: Finish = Finish.LENGTH) -> Bench:
        """After 300 requests, of which the policy's take this factor as long."""
        bench = Bench(make_policy(), parse("canary:0.5"))
        rng = np.random.default_rng(0)
        for request, signals in moments(300):
            decision = bench.router.route(request, signals)
            learned = parse("canary:0.5").tries(request.id)
            bench.router.learn(ended(request.id, decision, (factor if learned else 1.0) * rng.uniform(1, 3), finish))
        return bench

    def test_one_that_turns_out_worse_is_off_and_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            bench = self.serve(2.0)
        assert bench.tally.fallbacks[Fallback.WORSE] > 0
        assert caplog.text.count("policy test is off") == 1
        assert bench.router.guard.verdict is not None

    def test_one_that_does_not_goes_on(self) -> None:
        assert self.serve(1.0).tally.fallbacks == {}
        assert self.serve(0.7).tally.fallbacks == {}

    def test_errors_and_aborts_are_nobodys_fault(self) -> None:
        assert self.serve(9.0, Finish.ERROR).tally.fallbacks == {}
        assert self.serve(9.0, Finish.ABORT).tally.fallbacks == {}
