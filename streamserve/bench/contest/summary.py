"""The figures of one run, and which of them are compared."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamserve.bench.contest.cell import Run, Sample
from streamserve.bench.figures import quantile
from streamserve.workload.openloop import Latency, latency

MOST_TIMES = 100.0
NEVER = Latency(math.inf, math.inf, math.inf, math.inf)
"""Of a run that served nothing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run came to.

    A request that was lost (it failed, or was cut off) counts as infinitely late in the percentiles of TTFT and E2E,
    and against goodput. It has no part in means, TPOT and ITL: they would be infinite, or of half an answer.
    """

    requests: int
    failed: int
    """Without any output."""
    unfinished: int
    """Whose output began and did not end."""
    duration_s: float
    output_tokens_per_s: float
    goodput_per_s: float
    """Requests within both latencies of the SLO, per second."""
    slo_share: float
    ttft: Latency
    tpot: Latency | None
    """None where no answer had two tokens."""
    itl: Latency | None
    """None where no answer came in several pieces."""
    e2e: Latency

    @property
    def lost(self) -> int:
        """Requests that were not served."""
        return self.failed + self.unfinished


def figures(run: Run, slo_ttft_s: float, slo_tpot_s: float) -> Figures:
    """The figures of a run, judged by an SLO."""
    served = [sample for sample in run.samples if sample.error is None]
    lost = [sample for sample in run.samples if sample.error is not None]
    unfinished = sum(sample.ttft_s is not None for sample in lost)
    met = sum(_met(sample, slo_ttft_s, slo_tpot_s) for sample in served)
    return Figures(
        requests=len(run.samples),
        failed=len(lost) - unfinished,
        unfinished=unfinished,
        duration_s=run.duration_s,
        output_tokens_per_s=sum(sample.output_tokens for sample in run.samples) / run.duration_s,
        goodput_per_s=met / run.duration_s,
        slo_share=met / len(run.samples),
        ttft=_late([sample.ttft_s for sample in served if sample.ttft_s is not None], len(lost)),
        tpot=latency([sample.tpot_s for sample in served if sample.tpot_s is not None]) if served else NEVER,
        itl=latency([each for sample in served for each in sample.itl_s]) if served else NEVER,
        e2e=_late([sample.e2e_s for sample in served if sample.e2e_s is not None], len(lost)),
    )


def _late(values_s: Sequence[float], lost: int) -> Latency:
    """The mean of what was served, and percentiles in which what was lost is infinitely late."""
    if not values_s:
        return NEVER
    every = [*values_s, *[math.inf] * lost]
    return Latency(statistics.fmean(values_s), quantile(every, 0.5), quantile(every, 0.9), quantile(every, 0.99))


def _met(sample: Sample, slo_ttft_s: float, slo_tpot_s: float) -> bool:
    if sample.ttft_s is None or sample.ttft_s > slo_ttft_s:
        return False
    return sample.tpot_s is None or sample.tpot_s <= slo_tpot_s


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of the report."""

    title: str
    take: Callable[[Figures], float | None]
    """Infinite where nothing was served, or too many were lost; None where there is nothing that it could be of."""
    more_is_better: bool = False
    of_served: bool = False
    """Whether requests that were lost have no part in it."""

    def times_better(self, value: float, base: float) -> float:
        """How many times better the value is than the base; at most `MOST_TIMES`, so that 0 has a ratio as well."""
        over, under = (value, base) if self.more_is_better else (base, value)
        if over == under:
            return 1.0
        return min(max(over / under if under else MOST_TIMES, 1 / MOST_TIMES), MOST_TIMES)


def _of(
    pick: Callable[[Figures], Latency | None], take: Callable[[Latency], float]
) -> Callable[[Figures], float | None]:
    def metric(figures: Figures) -> float | None:
        found = pick(figures)
        return None if found is None else take(found)

    return metric


def _latencies(name: str, pick: Callable[[Figures], Latency | None], of_served: bool = False) -> list[Metric]:
    return [
        Metric(f"{name} mean, s", _of(pick, lambda each: each.mean_s), of_served=True),
        Metric(f"{name} p50, s", _of(pick, lambda each: each.p50_s), of_served=of_served),
        Metric(f"{name} p90, s", _of(pick, lambda each: each.p90_s), of_served=of_served),
        Metric(f"{name} p99, s", _of(pick, lambda each: each.p99_s), of_served=of_served),
    ]


TTFT = _latencies("TTFT", lambda each: each.ttft)
TPOT = _latencies("TPOT", lambda each: each.tpot, of_served=True)
E2E = _latencies("E2E", lambda each: each.e2e)
ITL_P99 = Metric("ITL p99, s", _of(lambda each: each.itl, lambda each: each.p99_s), of_served=True)
THROUGHPUT = Metric("output tokens/s", lambda each: each.output_tokens_per_s, more_is_better=True)
GOODPUT = Metric("SLO goodput, 1/s", lambda each: each.goodput_per_s, more_is_better=True)

METRICS = (*TTFT, *TPOT, ITL_P99, *E2E, THROUGHPUT, GOODPUT)
COMPARED = (E2E[0], E2E[3], TTFT[0], TTFT[3], TPOT[0], ITL_P99, THROUGHPUT, GOODPUT)
"""Those whose ratios are given."""
E2E_MEAN, E2E_P99 = E2E[0], E2E[3]
