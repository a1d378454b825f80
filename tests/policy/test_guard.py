"""When a policy is not followed: unlike observations, slow answers, dear choices, worse results."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.config import PolicyConfig
from streamserve.metrics.policy import Fallback
from streamserve.policy.arms import DEVIATIONS, FEWEST, LONGEST, Arms
from streamserve.policy.card import Bounds, envelope
from streamserve.policy.guard import Envelope, Guard
from streamserve.policy.mode import Mode, Way

BOUNDS = {"pairs": Bounds([0.0, -1.0], [1.0, 1.0]), "context": Bounds([0.0], [2.0])}


def observed(
    *pairs: tuple[float, float], context: float = 1.0
) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]:
    return {"pairs": np.array(pairs, np.float32), "context": np.array([context], np.float32)}


class TestEnvelope:
    def test_the_share_of_features_outside(self) -> None:
        known = Envelope(BOUNDS, 0.2)
        assert known.share_outside(**observed((0.5, 0.0), (1.0, -1.0))) == 0
        assert known.share_outside(**observed((0.5, 0.0), (1.1, -1.0))) == pytest.approx(1 / 5)
        assert known.share_outside(**observed((2.0, 2.0), context=9.0)) == 1
        assert known.holds(**observed((0.5, 0.0), (1.1, -1.0)))
        assert not known.holds(**observed((0.5, 0.0), (1.1, -1.2)))

    def test_a_feature_that_never_changed_may_be_that_value(self) -> None:
        seen = np.full((50, 3), 0.1, np.float32)
        known = Envelope(envelope({"pairs": seen}), 0.0)
        assert known.holds(pairs=seen)
        assert not known.holds(pairs=seen + np.float32(0.01))

    def test_it_holds_nearly_all_that_it_was_made_of(self) -> None:
        seen = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
        known = Envelope(envelope({"pairs": seen}), 0.0)
        assert 990 <= sum(known.holds(pairs=row) for row in seen) < 1000


class TestTimes:
    def test_two_late_answers_in_a_row_begin_a_pause(self) -> None:
        guard = Guard(PolicyConfig(budget_us=500, cooldown=2), BOUNDS)
        assert guard.took(0.0004) is None and guard.closed() is None
        for _ in range(3):
            assert guard.took(0.0006) is Fallback.OVER_BUDGET and guard.closed() is None
            assert guard.took(0.0004) is None
        assert [guard.took(0.0006) for _ in range(2)] == [Fallback.OVER_BUDGET] * 2
        assert [guard.closed() for _ in range(3)] == [Fallback.COOLING, Fallback.COOLING, None]

    def test_no_budget(self) -> None:
        assert Guard(PolicyConfig(budget_us=None), BOUNDS).took(100.0) is None


@pytest.mark.parametrize(
    ("chosen_s", "verdict"),
    [(1.0, None), (1.5, None), (1.51, Fallback.COSTLY), (math.nan, Fallback.COSTLY), (math.inf, Fallback.COSTLY)],
)
def test_a_choice_may_cost_so_much_more(chosen_s: float, verdict: Fallback | None) -> None:
    assert Guard(PolicyConfig(rho=1.5), BOUNDS).costs(chosen_s, 1.0) is verdict


class TestArms:
    def test_too_few_results_tell_nothing(self) -> None:
        arms = Arms(100)
        for _ in range(FEWEST - 1):
            arms.add(True, 1.0)
            arms.add(False, 1.0)
        arms.add(False, 1.0)
        assert arms.compare() is None
        arms.add(True, 1.0)
        assert arms.compare() is not None

    @settings(deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(40, 80), st.floats(0.1, 0.9))
    def test_it_is_the_comparison_of_the_last_results(self, seed: int, most: int, share: float) -> None:
        rng = np.random.default_rng(seed)
        results = [(bool(rng.random() < share), float(rng.uniform(0.01, 10))) for _ in range(300)]
        arms = Arms(most)
        for learned, value in results:
            arms.add(learned, value)
        kept = list(results)
        while min(_count(kept)) > most:
            kept.pop(0)
        one, other = ([value for learned, value in kept if learned is arm] for arm in (True, False))
        comparison = arms.compare()
        if min(len(one), len(other)) < FEWEST:
            assert comparison is None
            return
        assert comparison is not None
        off_s = np.mean(one) - np.mean(other)
        margin_s = DEVIATIONS * math.sqrt(np.var(one, ddof=1) / len(one) + np.var(other, ddof=1) / len(other))
        assert comparison.learned_s == pytest.approx(np.mean(one))
        assert (comparison.low_s, comparison.high_s) == pytest.approx((off_s - margin_s, off_s + margin_s), abs=1e-6)

    def test_what_is_kept_is_bounded(self) -> None:
        arms = Arms(10)
        for _ in range(20 * LONGEST):
            arms.add(False, 1.0)
        assert len(arms._results) == 10 * LONGEST

    def test_no_number_is_no_result(self) -> None:
        arms = Arms(10)
        arms.add(True, math.nan)
        assert len(arms._results) == 0


class TestLearn:
    def run(self, factor: float, seed: int = 0) -> Guard:
        """A guard after 2000 results in which the learned arm took this factor as long."""
        rng = np.random.default_rng(seed)
        guard = Guard(PolicyConfig(), BOUNDS)
        for _ in range(2000):
            learned = bool(rng.random() < 0.5)
            guard.learn(learned, float(rng.lognormal(0, 0.5)) * (factor if learned else 1.0))
        return guard

    @pytest.mark.parametrize("seed", range(5))
    def test_equal_arms_and_a_better_policy_go_on(self, seed: int) -> None:
        assert self.run(1.0, seed).closed() is None
        assert self.run(0.8, seed).closed() is None

    def test_a_worse_policy_is_off_and_stays_so(self) -> None:
        guard = self.run(1.5)
        assert guard.verdict is not None and guard.verdict.low_s > 0
        for _ in range(3):
            assert guard.closed() is Fallback.WORSE

    def test_the_turn_is_told_once(self) -> None:
        guard = Guard(PolicyConfig(compare=40), BOUNDS)
        rng = np.random.default_rng(0)
        told = [guard.learn(bool(n % 2), (2.0 if n % 2 else 1.0) + 0.1 * rng.random()) for n in range(200)]
        assert len([each for each in told if each is not None]) == 1


class TestMode:
    @pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
    def test_a_canary_gets_its_share(self, share: float) -> None:
        mode = Mode(Way.CANARY, share)
        tried = sum(mode.tries(f"request-{number}") for number in range(4000))
        assert tried / 4000 == pytest.approx(share, abs=0.04)

    def test_a_larger_share_keeps_the_requests_of_a_smaller_one(self) -> None:
        ids = [f"r{number}" for number in range(500)]
        small, large = ({id for id in ids if Mode(Way.CANARY, share).tries(id)} for share in (0.1, 0.5))
        assert small < large


def _count(results: list[tuple[bool, float]]) -> tuple[int, int]:
    learned = sum(arm for arm, _ in results)
    return learned, len(results) - learned
