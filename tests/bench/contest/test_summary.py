"""The figures of a run."""

import pytest

from streamserve.bench.contest.cell import Sample
from streamserve.bench.contest.summary import (
    E2E_MEAN,
    E2E_P99,
    GOODPUT,
    ITL_P99,
    METRICS,
    MOST_TIMES,
    THROUGHPUT,
    figures,
)
from tests.bench.contest.hall import kept, sample


def test_latencies_are_of_what_was_served_and_goodput_of_what_met_the_slo() -> None:
    slow_start, slow_tokens = sample(4.0, 4.5), sample(0.5, 3.0)
    refused = Sample(0.0, 5, 0, None, None, (), "HTTP 503")
    cut_off = Sample(0.0, 5, 3, 0.5, None, (0.1, 0.1), "cut off")
    run = kept("a", 0, [sample(0.5, 1.0), slow_start, slow_tokens, refused, cut_off]).run
    made = figures(run, slo_ttft_s=3.0, slo_tpot_s=0.1)
    assert (made.requests, made.failed, made.unfinished) == (5, 1, 1)
    assert made.goodput_per_s == pytest.approx(1 / 10)
    assert made.slo_share == pytest.approx(1 / 5)
    assert made.output_tokens_per_s == pytest.approx((33 + 3) / 10)
    assert E2E_MEAN.take(made) == pytest.approx((1.0 + 4.5 + 3.0) / 3)
    assert ITL_P99.take(made) == pytest.approx(0.25)


def test_a_single_token_is_judged_by_its_ttft() -> None:
    run = kept("a", 0, [Sample(0.0, 5, 1, 0.5, 0.5, ())]).run
    assert figures(run, 1.0, 0.0).slo_share == 1.0
    assert figures(run, 0.4, 9.0).slo_share == 0.0


def test_nothing_served_has_no_latency_and_no_goodput() -> None:
    made = figures(kept("a", 0, [Sample(0.0, 5, 0, None, None, (), "refused")]).run, 1.0, 1.0)
    assert [metric.take(made) for metric in METRICS if metric not in (THROUGHPUT, GOODPUT)] == [None] * 13
    assert GOODPUT.take(made) == 0.0


def test_better_is_lower_for_latencies_and_higher_for_rates() -> None:
    assert E2E_P99.times_better(2.0, 3.0) == pytest.approx(1.5)
    assert GOODPUT.times_better(3.0, 2.0) == pytest.approx(1.5)


def test_there_is_a_ratio_to_nothing() -> None:
    assert GOODPUT.times_better(0.0, 0.0) == 1.0
    assert GOODPUT.times_better(0.5, 0.0) == MOST_TIMES
    assert GOODPUT.times_better(0.0, 0.5) == 1 / MOST_TIMES
