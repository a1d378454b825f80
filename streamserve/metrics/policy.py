"""What trained policies did, counted: for Prometheus and for `/health`."""

from collections.abc import Iterator
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Fallback(StrEnum):
    """Why the heuristic decided where the policy was to."""

    OUTSIDE = "outside"
    """The observation is unlike those of its training."""
    NOT_FINITE = "not_finite"
    OVER_BUDGET = "over_budget"
    """It took longer than it may."""
    COOLING = "cooling"
    """A pause after it took too long."""
    COSTLY = "costly"
    """Its choice is predicted to cost much more than the heuristic's."""
    WORSE = "worse"
    """Its requests fared worse than the heuristic's; it stays off."""
    FAILED = "failed"
    """It raised an error."""
    LATE = "late"
    """An agent of another process: the request could wait no longer."""
    GONE = "gone"
    """It left while it was asked."""
    INVALID = "invalid"
    """Its answer is no action here."""


class PolicyTally:
    """Counts of decisions since the start, whichever policy made them; read from any thread."""

    def __init__(self) -> None:
        self.decisions: dict[tuple[str, str], int] = {}
        """(way, who decided: `policy` or `heuristic`) -> decisions."""
        self.fallbacks: dict[Fallback, int] = {}
        self.agreed = 0
        """Answers of a policy that are the heuristic's as well."""
        self.asked = 0
        self.shadow_gain_s = 0.0
        """Sum of the predicted cost of the heuristic's choice less that of the policy's, in shadow mode."""

    def decided(self, way: str, by_policy: bool) -> None:
        """Another request was given its lanes."""
        key = (way, "policy" if by_policy else "heuristic")
        self.decisions[key] = self.decisions.get(key, 0) + 1

    def fell_back(self, reason: Fallback) -> None:
        """The policy had its turn, and the heuristic decided."""
        self.fallbacks[reason] = self.fallbacks.get(reason, 0) + 1

    def answered(self, agrees: bool) -> None:
        """A policy had an answer."""
        self.asked += 1
        self.agreed += agrees

    @property
    def total(self) -> int:
        return sum(self.decisions.copy().values())


class PolicyCollector(Collector):
    """A tally as Prometheus series."""

    def __init__(self, tally: PolicyTally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        tally = self._tally
        decisions = CounterMetricFamily(
            "streamserve:policy_decisions", "Decisions by who made them.", labels=("mode", "choice")
        )
        for labels, count in tally.decisions.copy().items():
            decisions.add_metric(labels, count)
        yield decisions
        fallbacks = CounterMetricFamily(
            "streamserve:policy_fallbacks", "Turns of the policy in which the heuristic decided.", labels=("reason",)
        )
        for reason in Fallback:
            fallbacks.add_metric((reason.value,), tally.fallbacks.get(reason, 0))
        yield fallbacks
        answers = CounterMetricFamily(
            "streamserve:policy_answers",
            "Answers of the policy, by whether FlowGuard agrees.",
            labels=("agrees",),
        )
        answers.add_metric(("yes",), tally.agreed)
        answers.add_metric(("no",), tally.asked - tally.agreed)
        yield answers
        yield GaugeMetricFamily(
            "streamserve:policy_shadow_gain_seconds",
            "Predicted cost of FlowGuard's choices less that of the policy's, summed in shadow mode.",
            value=tally.shadow_gain_s,
        )


def install(tally: PolicyTally, registry: CollectorRegistry) -> PolicyCollector:
    """Show this tally in this registry from now on."""
    collector = PolicyCollector(tally)
    registry.register(collector)
    return collector
