"""What became of requests, as Prometheus series."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from streamserve.types import NO_SLO, Result

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.11, 1.25, 1.5, 2.0, 4.0, 10.0)


class ResultMetrics:
    """Counters and histograms in this registry, fed with every request that ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"streamserve:{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], label: str) -> Histogram:
            return Histogram(f"streamserve:{name}", meaning, (label,), buckets=buckets, registry=registry)

        self._requests = counter("requests", "Requests that ended.", "finish", "router", "disaggregated")
        self._retries = counter("retries", "Attempts after a request's first one.")
        self._slo = counter("slo_requests", "Requests with an SLO that ended, by whether they met it.", "met")
        self._tokens = counter("generated_tokens", "Output tokens of the requests that ended.")
        self._ttft = histogram("ttft_seconds", "Arrival to first token.", LATENCY_BUCKETS, "disaggregated")
        self._tpot = histogram("tpot_seconds", "Time per token after the first.", TPOT_BUCKETS, "disaggregated")
        self._e2e = histogram("e2e_seconds", "Arrival to last token.", LATENCY_BUCKETS, "disaggregated")
        self._queue = histogram("queue_seconds", "Arrival to last dispatch.", LATENCY_BUCKETS, "disaggregated")
        self._ratio = histogram(
            "prediction_ratio", "Predicted latency over the actual one, both from the decision on.",
            RATIO_BUCKETS, "latency",
        )  # fmt: skip

    def learn(self, result: Result) -> None:
        """Count one request that ended."""
        decision = result.decision
        router = decision.router if decision is not None else "none"
        split = "yes" if decision is not None and decision.disaggregated else "no"
        self._requests.labels(result.finish.value, router, split).inc()
        self._retries.inc(max(0, result.attempts - 1))
        self._tokens.inc(result.output_tokens)
        if result.slo != NO_SLO:
            self._slo.labels("yes" if result.slo_met else "no").inc()
        if result.dispatched_s is not None:
            self._queue.labels(split).observe(result.dispatched_s - result.arrived_s)
        if result.ttft_s is not None:
            self._ttft.labels(split).observe(result.ttft_s)
        if result.finish.by_itself:
            self._e2e.labels(split).observe(result.e2e_s)
            if result.tpot_s is not None:
                self._tpot.labels(split).observe(result.tpot_s)
            self._compare(result)

    def _compare(self, result: Result) -> None:
        decision = result.decision
        if decision is None or decision.prediction is None or result.first_token_s is None:
            return
        if result.first_token_s < decision.at_s:
            # An earlier attempt began the output, which the last decision did not predict.
            return
        predicted = decision.prediction
        pairs = {
            "ttft": (predicted.ttft_s, result.first_token_s - decision.at_s),
            "tpot": (predicted.tpot_s, result.tpot_s),
            "e2e": (predicted.e2e_s, result.finished_s - decision.at_s),
        }
        for latency, (expected_s, actual_s) in pairs.items():
            if actual_s:
                self._ratio.labels(latency).observe(expected_s / actual_s)
