"""A tally of policies as Prometheus series."""

from prometheus_client import CollectorRegistry

from streamserve.metrics.policy import Fallback, PolicyTally, install


def test_counts_are_shown_as_they_are() -> None:
    registry, tally = CollectorRegistry(), PolicyTally()
    install(tally, registry)
    for by_policy in (True, True, False):
        tally.decided("canary", by_policy)
    tally.fell_back(Fallback.OUTSIDE)
    tally.answered(agrees=True)
    tally.answered(agrees=False)
    tally.shadow_gain_s -= 0.5

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"streamserve:policy_{name}", labels)

    assert value("decisions_total", mode="canary", choice="policy") == 2
    assert value("decisions_total", mode="canary", choice="heuristic") == 1
    assert value("fallbacks_total", reason="outside") == 1
    assert value("fallbacks_total", reason="worse") == 0
    assert (value("answers_total", agrees="yes"), value("answers_total", agrees="no")) == (1, 1)
    assert value("shadow_gain_seconds") == -0.5
    assert tally.total == 3
