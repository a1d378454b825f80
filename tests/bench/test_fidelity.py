"""Errors, noise, correlation and ranking of simulated runs against live ones."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.bench import fidelity
from streamserve.bench.fidelity import METRICS
from streamserve.bench.ranking import Outcome, Served
from streamserve.types import LaneId
from streamserve.workload.openloop import Latency, Summary

NUMBERS = st.lists(st.integers(-5, 5), min_size=2, max_size=12)


def summary(e2e_s: float) -> Summary:
    each = Latency(e2e_s, e2e_s, 2 * e2e_s, 3 * e2e_s)
    return Summary(4, 0, 10.0, 0.4, 50.0, 1.0, 1.0, each, each, each, each, {LaneId("a"): 1.0}, 0.25)


def outcome(e2e_s: float, *requests_s: float, finish: str = "length", load: float = 0.5, system: str = "x") -> Outcome:
    requests = tuple(
        Served("chat", 0.0, 5, 5, each, 0.1, 0.1, True, finish, "a", "a") for each in requests_s or (1.0, 2.0)
    )
    return Outcome("poisson", load, system, 0, summary(e2e_s), 0.0, 0.0, requests)


KEY = ("poisson", 0.5, "x")


def test_the_error_is_a_share_of_the_live_value_and_stands_beside_the_noise() -> None:
    live, simulated = [outcome(0.9), outcome(1.1)], [outcome(1.0), outcome(1.2)]
    (made,) = fidelity.compare({KEY: live}, {KEY: simulated})
    mean = made.metrics[3]
    assert mean.metric == "E2E mean, s"
    assert (mean.live, mean.simulated, mean.error) == pytest.approx((1.0, 1.1, 0.1))
    assert mean.floor == pytest.approx(0.2)
    assert mean.verdict == "within noise"
    assert made.metrics[6].verdict == "yes"


def test_a_single_live_run_has_no_noise_and_a_great_error_is_one() -> None:
    (made,) = fidelity.compare({KEY: [outcome(1.0)]}, {KEY: [outcome(1.2)]})
    assert (made.metrics[3].floor, made.metrics[3].verdict, made.r_live) == (None, "no", None)


def test_correlation_is_over_the_requests_that_finished_in_both() -> None:
    live, simulated = outcome(1.0, 1.0, 2.0, 4.0), outcome(1.0, 2.0, 4.0, 8.0)
    (made,) = fidelity.compare({KEY: [live, live]}, {KEY: [simulated]})
    assert made.r == pytest.approx(1.0)
    assert made.r_live == pytest.approx(1.0)
    (made,) = fidelity.compare({KEY: [live]}, {KEY: [outcome(1.0, 2.0, 4.0, 8.0, finish="error")]})
    assert made.r is None


@given(NUMBERS.flatmap(lambda x: st.tuples(st.just(x), st.lists(st.integers(-5, 5), min_size=len(x), max_size=len(x)))))
def test_tau_and_r_are_what_their_definitions_say(pair: tuple[list[int], list[int]]) -> None:
    x, y = pair
    tau, r = fidelity.kendall(x, y), fidelity.pearson(x, y)
    assert (tau is None) == (len(set(x)) == 1 or len(set(y)) == 1) == (r is None)
    if tau is None or r is None:
        return
    assert -1 - 1e-9 <= tau <= 1 + 1e-9
    assert tau == fidelity.kendall(y, x) == -(fidelity.kendall(x, [-each for each in y]) or 0)
    assert fidelity.kendall(x, x) == pytest.approx(1)
    assert r == pytest.approx(fidelity.pearson([3 * each + 1 for each in x], y))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    assert r == pytest.approx(covariance / spread, abs=1e-9)


@given(st.permutations(list(range(6))))
def test_tau_without_ties_counts_the_pairs_in_order(y: list[int]) -> None:
    agree = sum(1 if y[i] < y[j] else -1 for i, j in combinations(range(6), 2))
    assert fidelity.kendall(list(range(6)), y) == pytest.approx(agree / 15)


def test_rankings_are_compared_within_cells_and_over_all() -> None:
    live = {("poisson", load, name): [outcome(value * load)] for load in (1.0, 2.0)
            for name, value in (("a", 1.0), ("b", 1.5), ("c", 3.0))}  # fmt: skip
    simulated = dict(live)
    simulated["poisson", 2.0, "a"] = [outcome(5.0)]
    ranked = fidelity.order(live, simulated)
    assert ranked.tau_within == pytest.approx((1 + 1 / 3) / 2)
    assert ranked.tau is not None and 0 < ranked.tau < 1
    assert ranked.winners == {"poisson, load 1": ("a", "a"), "poisson, load 2": ("a", "b")}
    assert ranked.tau_live is None


def test_single_live_runs_are_ranked_against_one_another() -> None:
    repeats = ({"a": 1.0, "b": 1.5, "c": 3.0}, {"a": 1.0, "b": 4.0, "c": 3.0, "d": 0.1})
    live: dict[fidelity.Key, list[Outcome]] = {}
    for repeat, values in enumerate(repeats):
        for name, value in values.items():
            live.setdefault(("poisson", 0.5, name), []).append(replace(outcome(value), repeat=repeat))
    assert fidelity.order(live, {}).tau_live == pytest.approx(1 / 3)
    assert fidelity.order(live, live).tau == 1


def test_one_system_has_no_ranking() -> None:
    ranked = fidelity.order({KEY: [outcome(1.0)]}, {KEY: [outcome(1.0)]})
    assert (ranked.tau, ranked.tau_within, ranked.winners) == (None, None, {})
    assert "Ranking" not in fidelity.text(fidelity.compare({KEY: [outcome(1.0)]}, {KEY: [outcome(1.0)]}), ranked)


def test_the_report_shows_every_metric_with_its_target() -> None:
    runs = {KEY: [outcome(1.0), outcome(1.02)], ("poisson", 0.5, "y"): [outcome(2.0, system="y")]}
    text = fidelity.text(fidelity.compare(runs, runs), fidelity.order(runs, runs))
    for metric in METRICS:
        assert f"| {metric.name} | " in text
    assert "| E2E mean, s | 1.01 | 1.01 | +0.0 % | 2.0 % | 5.0 % | yes |" in text
    assert "the same winner in 1 of 1 cells" in text
