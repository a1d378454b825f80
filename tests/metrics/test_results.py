"""What results leave in the registry."""

import pytest
from prometheus_client import CollectorRegistry

from streamserve.metrics.results import ResultMetrics
from streamserve.types import NO_SLO, Finish, Slo
from tests.metrics.samples import A, decision, result


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> ResultMetrics:
    return ResultMetrics(registry)


def total(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"streamserve:{name}", labels)


def test_requests_are_counted_by_how_they_ended(metrics: ResultMetrics, registry: CollectorRegistry) -> None:
    metrics.learn(result())
    metrics.learn(result(finish=Finish.ABORT, decision=decision(A, A), attempts=3))
    metrics.learn(result(finish=Finish.ERROR, decision=None, first_token_s=None, output_tokens=0, attempts=0))
    split = {"finish": "stop", "router": "flowguard", "disaggregated": "yes"}
    assert total(registry, "requests_total", **split) == 1
    assert total(registry, "requests_total", finish="abort", router="flowguard", disaggregated="no") == 1
    assert total(registry, "requests_total", finish="error", router="none", disaggregated="no") == 1
    assert total(registry, "retries_total") == 2
    assert total(registry, "generated_tokens_total") == 22


def test_latencies(metrics: ResultMetrics, registry: CollectorRegistry) -> None:
    metrics.learn(result())
    sums = {name: total(registry, f"{name}_seconds_sum", disaggregated="yes") for name in ("ttft", "e2e", "queue")}
    assert sums == {"ttft": 3.0, "e2e": 4.0, "queue": 1.0}
    assert total(registry, "tpot_seconds_sum", disaggregated="yes") == pytest.approx(0.1)


def test_a_request_that_was_ended_from_outside_has_no_e2e_time(
    metrics: ResultMetrics, registry: CollectorRegistry
) -> None:
    metrics.learn(result(finish=Finish.ABORT))
    assert total(registry, "ttft_seconds_count", disaggregated="yes") == 1
    assert total(registry, "e2e_seconds_count", disaggregated="yes") is None
    assert total(registry, "tpot_seconds_count", disaggregated="yes") is None
    assert total(registry, "prediction_ratio_count", latency="ttft") is None


def test_only_requests_with_an_slo_count_for_it(metrics: ResultMetrics, registry: CollectorRegistry) -> None:
    metrics.learn(result(slo=NO_SLO))
    metrics.learn(result(slo=Slo(ttft_s=3.0)))
    metrics.learn(result(slo=Slo(ttft_s=2.9)))
    metrics.learn(result(slo=Slo(tpot_s=0.2)))
    assert total(registry, "slo_requests_total", met="yes") == 2
    assert total(registry, "slo_requests_total", met="no") == 1


def test_predictions_are_compared_from_the_decision_on(metrics: ResultMetrics, registry: CollectorRegistry) -> None:
    metrics.learn(result())
    ratios = {latency: total(registry, "prediction_ratio_sum", latency=latency) for latency in ("ttft", "tpot", "e2e")}
    assert ratios == pytest.approx({"ttft": 1.0 / 2.0, "tpot": 0.1 / 0.1, "e2e": 6.0 / 3.0})


def test_a_resumed_request_is_compared_with_no_prediction(metrics: ResultMetrics, registry: CollectorRegistry) -> None:
    metrics.learn(result(first_token_s=10.5, dispatched_s=11.0))
    metrics.learn(result(decision=decision(prediction=None)))
    assert total(registry, "prediction_ratio_count", latency="e2e") is None
