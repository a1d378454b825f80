"""The figures of a run."""

import math

import pytest

from streamserve.bench.contest.cell import Sample
from streamserve.bench.contest.summary import (
    E2E,
    E2E_MEAN,
    E2E_P99,
    GOODPUT,
    ITL_P99,
    METRICS,
    MOST_TIMES,
    THROUGHPUT,
    TPOT,
    TTFT,
    Figures,
    figures,
)
from tests.bench.contest.hall import kept, sample

REFUSED = Sample(0.0, 5, 0, None, None, (), "HTTP 503")
CUT_OFF = Sample(0.0, 5, 3, 0.5, None, (0.1, 0.1), "cut off")


def made_of(samples: list[Sample]) -> Figures:
    return figures(kept("a", 0, samples).run, 1.0, 1.0)


def test_means_are_of_what_was_served_and_goodput_of_what_met_the_slo() -> None:
    slow_start, slow_tokens = sample(4.0, 4.5), sample(0.5, 3.0)
    run = kept("a", 0, [sample(0.5, 1.0), slow_start, slow_tokens, REFUSED, CUT_OFF]).run
    made = figures(run, slo_ttft_s=3.0, slo_tpot_s=0.1)
    assert (made.requests, made.failed, made.unfinished, made.lost) == (5, 1, 1, 2)
    assert made.goodput_per_s == pytest.approx(1 / 10)
    assert made.slo_share == pytest.approx(1 / 5)
    assert made.output_tokens_per_s == pytest.approx((33 + 3) / 10)
    assert E2E_MEAN.take(made) == pytest.approx((1.0 + 4.5 + 3.0) / 3)
    assert ITL_P99.take(made) == pytest.approx(0.25)


@pytest.mark.parametrize("lost", [REFUSED, CUT_OFF])
def test_what_was_lost_is_infinitely_late_in_percentiles_of_ttft_and_e2e(lost: Sample) -> None:
    """It was the slowest: a system that cuts off what is slow must not look fast."""
    made = made_of([*[sample(0.5, 1.0 + i / 100) for i in range(19)], lost])
    assert [metric.take(made) for metric in (*TTFT[:3], TTFT[3])] == [0.5, 0.5, 0.5, math.inf]
    assert [metric.take(made) for metric in E2E[1:]] == [pytest.approx(1.095), pytest.approx(1.171), math.inf]
    assert E2E_MEAN.take(made) == pytest.approx(1.09)
    assert TPOT[3].take(made) == pytest.approx(0.06777, abs=1e-4)
    assert ITL_P99.take(made) == pytest.approx(0.068, abs=1e-4)
    assert {metric.title for metric in METRICS if metric.of_served} == {
        "TTFT mean, s", "E2E mean, s", "ITL p99, s", *(metric.title for metric in TPOT)
    }  # fmt: skip


def test_one_lost_in_many_is_beyond_the_99th_percentile() -> None:
    assert E2E_P99.take(made_of([*[sample(0.5, 1.0)] * 100, REFUSED])) == 1.0
    assert E2E_P99.take(made_of([*[sample(0.5, 1.0)] * 99, REFUSED])) == math.inf


def test_a_single_token_is_judged_by_its_ttft() -> None:
    run = kept("a", 0, [Sample(0.0, 5, 1, 0.5, 0.5, ())]).run
    assert figures(run, 1.0, 0.0).slo_share == 1.0
    assert figures(run, 0.4, 9.0).slo_share == 0.0


def test_nothing_served_is_the_worst_of_all() -> None:
    made = made_of([REFUSED])
    assert [metric.take(made) for metric in METRICS if metric not in (THROUGHPUT, GOODPUT)] == [math.inf] * 13
    assert GOODPUT.take(made) == 0.0


def test_better_is_lower_for_latencies_and_higher_for_rates() -> None:
    assert E2E_P99.times_better(2.0, 3.0) == pytest.approx(1.5)
    assert GOODPUT.times_better(3.0, 2.0) == pytest.approx(1.5)


def test_there_is_a_ratio_to_nothing() -> None:
    assert E2E_P99.times_better(1.0, math.inf) == MOST_TIMES
    assert E2E_P99.times_better(math.inf, 1.0) == 1 / MOST_TIMES
    assert E2E_P99.times_better(math.inf, math.inf) == 1.0
    assert GOODPUT.times_better(0.0, 0.0) == 1.0
    assert GOODPUT.times_better(0.5, 0.0) == MOST_TIMES
    assert GOODPUT.times_better(0.0, 0.5) == 1 / MOST_TIMES
