"""How near simulated runs come to live ones: errors beside the noise of live runs, and whether systems rank alike."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from streamserve.bench import report
from streamserve.bench.ranking import Outcome
from streamserve.types import Finish
from streamserve.workload.openloop import Latency, Summary

Key = tuple[str, float, str]
"""Arrivals, load, system."""
Runs = Mapping[Key, Sequence[Outcome]]
"""The runs of one plan: live repeats, or simulated seeds."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that is compared."""

    name: str
    target: float
    """The error, as a share, that a simulation may have (the best that others reported, and below)."""
    take: Callable[[Summary], float]


def _of(pick: Callable[[Summary], Latency | None], take: Callable[[Latency], float]) -> Callable[[Summary], float]:
    def value(summary: Summary) -> float:
        latency = pick(summary)
        return math.nan if latency is None else take(latency)

    return value


METRICS = (
    Metric("TTFT mean, s", 0.10, _of(lambda s: s.ttft, lambda v: v.mean_s)),
    Metric("TTFT p90, s", 0.15, _of(lambda s: s.ttft, lambda v: v.p90_s)),
    Metric("TPOT mean, s", 0.04, _of(lambda s: s.tpot, lambda v: v.mean_s)),
    Metric("E2E mean, s", 0.05, _of(lambda s: s.e2e, lambda v: v.mean_s)),
    Metric("E2E p90, s", 0.07, _of(lambda s: s.e2e, lambda v: v.p90_s)),
    Metric("E2E p99, s", 0.09, _of(lambda s: s.e2e, lambda v: v.p99_s)),
    Metric("tokens/s", 0.04, lambda summary: summary.output_tokens_per_s),
)
E2E = METRICS[3]
R_TARGET = 0.95
TAU_TARGET = 0.8


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of one cell, means over live repeats and over simulated seeds."""

    metric: str
    live: float
    simulated: float
    error: float
    """(simulated - live) / live."""
    floor: float | None
    """Mean difference of two live runs, as a share; None of a single one."""
    target: float

    @property
    def verdict(self) -> str:
        """Whether the error is within the target, or not but within what live runs differ by, or neither."""
        if abs(self.error) <= self.target:
            return "yes"
        return "within noise" if self.floor is not None and abs(self.error) <= self.floor else "no"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """One system in one cell."""

    arrivals: str
    load: float
    system: str
    metrics: tuple[Compared, ...]
    r: float | None
    """Pearson correlation of single requests' E2E, live against simulated; mean over all pairs of runs."""
    r_live: float | None
    """The same of two live runs."""


@dataclass(frozen=True, slots=True)
class Order:
    """Whether live and simulated runs put systems in the same order of mean E2E."""

    tau: float | None
    """Kendall's tau-b over all systems and cells at once."""
    tau_within: float | None
    """The mean of those over the systems of one cell."""
    tau_live: float | None
    """`tau` of single live runs against one another: what their noise leaves to any model."""
    winners: Mapping[str, tuple[str, str]]
    """Cell -> the best live system and the best simulated one."""


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Correlation coefficient; None of fewer than two values, or where one side does not vary."""
    if len(x) < 2 or min(x) == max(x) or min(y) == max(y):
        return None
    return statistics.correlation(x, y)


def kendall(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b (Kendall 1945), which allows for ties; None where one side has only ties."""
    concordance, x_only, y_only = 0, 0, 0
    pairs = list(combinations(zip(x, y, strict=True), 2))
    for (x0, y0), (x1, y1) in pairs:
        dx, dy = (x0 > x1) - (x0 < x1), (y0 > y1) - (y0 < y1)
        concordance += dx * dy
        x_only += dx != 0
        y_only += dy != 0
    return concordance / math.sqrt(x_only * y_only) if x_only and y_only else None


def compare(live: Runs, simulated: Runs) -> list[Fidelity]:
    """Every cell and system that has both."""
    return [_fidelity(key, live[key], simulated[key]) for key in live if key in simulated]


def order(live: Runs, simulated: Runs) -> Order:
    """How well the ranking by mean E2E agrees."""
    cells: dict[tuple[str, float], dict[str, tuple[float, float]]] = defaultdict(dict)
    for arrivals, load, system in live.keys() & simulated.keys():
        key = (arrivals, load, system)
        means = (_mean(E2E, live[key]), _mean(E2E, simulated[key]))
        if not any(map(math.isnan, means)):
            cells[arrivals, load][system] = means
    several = {cell: dict(sorted(systems.items())) for cell, systems in sorted(cells.items()) if len(systems) > 1}
    within = [kendall(*zip(*systems.values(), strict=True)) for systems in several.values()]
    winners = {
        f"{arrivals}, load {load:g}": (
            min(systems, key=lambda name: systems[name][0]),
            min(systems, key=lambda name: systems[name][1]),
        )
        for (arrivals, load), systems in several.items()
    }
    every = [means for systems in several.values() for means in systems.values()]
    return Order(kendall([a for a, _ in every], [b for _, b in every]), _known_mean(within), _tau_live(live), winners)


def _tau_live(live: Runs) -> float | None:
    """Over all pairs of repeats, each with the cells and systems that have both."""
    by_repeat: dict[int, dict[Key, float]] = defaultdict(dict)
    for key, runs in live.items():
        for run in runs:
            if not math.isnan(e2e_s := E2E.take(run.summary)):
                by_repeat[run.repeat][key] = e2e_s
    taus = []
    for one, other in combinations(by_repeat.values(), 2):
        both = sorted(one.keys() & other.keys())
        taus.append(kendall([one[key] for key in both], [other[key] for key in both]))
    return _known_mean(taus)


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return statistics.mean(known) if known else None


def text(fidelities: Sequence[Fidelity], ranked: Order) -> str:
    """The report in Markdown."""
    parts = [EXPLAINED, _worst(fidelities)]
    for each in fidelities:
        parts.append(f"## {each.arrivals}, load {each.load:g}, {each.system}")
        rows = [_row(metric) for metric in each.metrics]
        rows.append(
            ["r of single requests", _number(each.r_live), _number(each.r), "", "", f"> {R_TARGET}", _above(each.r)]
        )
        parts.append(report.table(HEADER, rows))
    if ranked.winners:
        parts.append(_ranking(ranked))
    return "\n\n".join(parts) + "\n"


HEADER = ("metric", "live", "simulated", "error", "noise", "target", "reached")
EXPLAINED = (
    "Means over the live runs of one plan and over the simulated ones. Noise: by how much two live runs differ; an "
    "error below it cannot be told from none. In the row of r, `live` is that of two live runs."
)


def _fidelity(key: Key, live: Sequence[Outcome], simulated: Sequence[Outcome]) -> Fidelity:
    compared = tuple(_compared(metric, live, simulated) for metric in METRICS)
    return Fidelity(*key, compared, _r(list(product(live, simulated))), _r(list(combinations(live, 2))))


def _compared(metric: Metric, live: Sequence[Outcome], simulated: Sequence[Outcome]) -> Compared:
    measured, modelled = _mean(metric, live), _mean(metric, simulated)
    values = [metric.take(run.summary) for run in live]
    gaps = [2 * abs(a - b) / (a + b) for a, b in combinations(values, 2) if a + b > 0]
    error = (modelled - measured) / measured if measured else math.nan
    return Compared(metric.name, measured, modelled, error, statistics.mean(gaps) if gaps else None, metric.target)


def _mean(metric: Metric, runs: Sequence[Outcome]) -> float:
    return statistics.mean(metric.take(run.summary) for run in runs)


def _r(pairs: Sequence[tuple[Outcome, Outcome]]) -> float | None:
    return _known_mean([pearson(*_both(*pair)) for pair in pairs])


def _both(one: Outcome, other: Outcome) -> tuple[list[float], list[float]]:
    """E2E of the requests that finished in both."""
    finished = {Finish.STOP.value, Finish.LENGTH.value}
    pairs = [
        (a.e2e_s, b.e2e_s)
        for a, b in zip(one.requests, other.requests, strict=True)
        if a.finish in finished and b.finish in finished
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _worst(fidelities: Sequence[Fidelity]) -> str:
    """Per metric: the mean error over all cells, with its sign and without, and the greatest."""
    rows = []
    for place, metric in enumerate(METRICS):
        every = [each.metrics[place] for each in fidelities]
        signed = [each.error for each in every if not math.isnan(each.error)]
        errors = [abs(error) for error in signed]
        floors = [each.floor for each in every if each.floor is not None]
        if errors:
            reached = sum(each.verdict != "no" for each in every)
            rows.append(
                [metric.name, f"{100 * statistics.mean(signed):+.1f} %"]
                + [_share(statistics.mean(errors)), _share(max(errors))]
                + [_share(statistics.mean(floors)) if floors else "-", _share(metric.target)]
                + [f"{reached} of {len(every)}"]
            )
    header = ["metric", "bias", "mean error", "greatest error", "mean noise", "target", "cells within target or noise"]
    return "## All cells\n\n" + report.table(header, rows)


def _ranking(ranked: Order) -> str:
    same = sum(live == simulated for live, simulated in ranked.winners.values())
    rows = [[cell, live, simulated] for cell, (live, simulated) in ranked.winners.items()]
    return (
        "## Ranking by mean E2E\n\n"
        f"Kendall's tau over all systems and cells {_number(ranked.tau)}, within cells {_number(ranked.tau_within)} "
        f"(target {TAU_TARGET}; of one live run against another {_number(ranked.tau_live)}); "
        f"the same winner in {same} of {len(rows)} cells.\n\n"
    ) + report.table(["cell", "best live", "best simulated"], rows)


def _row(each: Compared) -> list[object]:
    floor = "-" if each.floor is None else _share(each.floor)
    return [
        each.metric,
        each.live,
        each.simulated,
        f"{100 * each.error:+.1f} %",
        floor,
        _share(each.target),
        each.verdict,
    ]


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _above(r: float | None) -> str:
    return "-" if r is None else "yes" if r > R_TARGET else "no"
