"""What the runs of `streamserve.bench.routing` say: every system's figures per cell, and ratios within repeats."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamserve.bench import report
from streamserve.bench.figures import Spread, quantile, spread
from streamserve.bench.systems import PLAIN
from streamserve.types import Finish
from streamserve.workload.openloop import Latency, Summary, latency


@dataclass(frozen=True, slots=True)
class Served:
    """One request of a run."""

    workload: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    e2e_s: float
    ttft_s: float | None
    tpot_s: float | None
    slo_met: bool
    finish: str
    prefill: str | None
    decode: str | None
    predicted_ttft_s: float | None = None
    predicted_e2e_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: a system under one plan."""

    arrivals: str
    load: float
    system: str
    repeat: int
    summary: Summary
    machine_gap_s: float
    loop_gap_s: float
    requests: tuple[Served, ...]
    policy: dict[str, Any] | None = None
    """What the system's trained policy says of itself, as in `/health`."""
    outputs: tuple[tuple[int, ...], ...] = ()
    """The tokens of every request of a live run."""


Cell = tuple[str, float]
"""Arrivals and load."""
PerSystem = Mapping[str, Mapping[int, Outcome]]
"""System -> repeat -> its run."""

MAX_GAP_S = 2.0
BY_ITSELF = (str(Finish.STOP), str(Finish.LENGTH))
"""How a request ends that was served."""

Take = Callable[[Outcome], float]


def _of(pick: Callable[[Summary], Latency | None], take: Callable[[Latency], float]) -> Take:
    def metric(run: Outcome) -> float:
        latency = pick(run.summary)
        return math.inf if latency is None else take(latency)

    return metric


def _late(whole: Take, take: Callable[[Served], float | None]) -> Take:
    """A 99th percentile in which the requests that failed are infinitely late. whole: the same where none did."""

    def metric(run: Outcome) -> float:
        if not run.summary.failed:
            return whole(run)
        found = [value for each in run.requests if each.finish in BY_ITSELF and (value := take(each)) is not None]
        return quantile([*found, *[math.inf] * run.summary.failed], 0.99)

    return metric


METRICS: Mapping[str, Take] = {
    "E2E mean, s": _of(lambda s: s.e2e, lambda v: v.mean_s),
    "E2E p99, s": _late(_of(lambda s: s.e2e, lambda v: v.p99_s), lambda served: served.e2e_s),
    "TTFT mean, s": _of(lambda s: s.ttft, lambda v: v.mean_s),
    "TTFT p99, s": _late(_of(lambda s: s.ttft, lambda v: v.p99_s), lambda served: served.ttft_s),
    "TPOT mean, s": _of(lambda s: s.tpot, lambda v: v.mean_s),
    "TPOT p99, s": _of(lambda s: s.tpot, lambda v: v.p99_s),
    "ITL p99, s": _of(lambda s: s.itl, lambda v: v.p99_s),
    "tokens/s": lambda run: run.summary.output_tokens_per_s,
    "goodput, 1/s": lambda run: run.summary.goodput_per_s,
}
OF_SERVED = ("E2E mean, s", "TTFT mean, s", "TPOT mean, s", "TPOT p99, s")
"""Metrics in which requests that failed have no part."""
HIGHER_IS_BETTER = ("tokens/s", "goodput, 1/s")
COMPARED = ("E2E mean, s", "E2E p99, s", "TTFT mean, s", "TTFT p99, s", "TPOT p99, s", "goodput, 1/s")


def text(outcomes: Sequence[Outcome], reference: str) -> str:
    """The report in Markdown.

    reference: the system whose ratio to each other one is given: below 1 is better for latencies, above 1 for goodput.
    """
    sound = [each for each in outcomes if each.machine_gap_s <= MAX_GAP_S]
    parts = [
        f"{len(outcomes) - len(sound)} of {len(outcomes)} runs are left out: the machine paused. A request that failed "
        "is infinitely late in the p99 of E2E and TTFT. `*`: some failed, and the figure is of the others."
    ]
    for (arrivals, load), systems in sorted(cells(sound).items()):
        parts.append(f"## {arrivals}, load {load:g}")
        rows = [_row(system, repeats) for system, repeats in systems.items()]
        parts.append(report.table(["system", *METRICS, "E2E p99 pooled, s", "failed", "two lanes"], rows))
        if compared := _compared(systems, reference):
            parts.append(report.table([f"{reference} over", *COMPARED], compared))
    return "\n\n".join(parts) + "\n"


def cells(outcomes: Sequence[Outcome]) -> dict[Cell, dict[str, dict[int, Outcome]]]:
    """Cell -> system -> repeat -> run."""
    groups: dict[Cell, dict[str, dict[int, Outcome]]] = defaultdict(lambda: defaultdict(dict))
    for each in outcomes:
        groups[each.arrivals, each.load][each.system][each.repeat] = each
    return groups


def compare(reference: Mapping[int, Outcome], other: Mapping[int, Outcome], metric: str) -> Spread | None:
    """Ratio of a metric in the repeats that both have, without those where the other's is 0; None without any.

    Where one served nothing its latencies are infinite, and so is the ratio, or 0; it is 1 where both did.
    """
    take = METRICS[metric]
    pairs = [(take(reference[i]), take(other[i])) for i in sorted(reference.keys() & other.keys())]
    ratios = [1.0 if value == base else value / base for value, base in pairs if base > 0]
    return spread(ratios) if ratios else None


def served_e2e_s(runs: Iterable[Outcome]) -> list[float]:
    """E2E of every request that was served: one that is turned away at once is not the fastest."""
    return [each.e2e_s for run in runs for each in run.requests if each.finish in BY_ITSELF]


def best_other(systems: PerSystem, reference: str, metric: str) -> str:
    """The best of the other systems by its median. Raises `ValueError` when there is none."""
    medians = {name: _spread(runs, metric).median for name, runs in systems.items() if name != reference}
    pick = max if metric in HIGHER_IS_BETTER else min
    return pick(medians, key=lambda name: medians[name])


def plots(outcomes: Sequence[Outcome], folder: Path) -> bool:
    """CDFs of E2E latency per cell, and mean E2E against load; False where matplotlib is missing."""
    drawn = True
    over_load: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for (arrivals, load), systems in sorted(cells(outcomes).items()):
        curves = {name: report.cumulative(served_e2e_s(runs.values())) for name, runs in systems.items()}
        name = f"{report.slug(arrivals)}-{load:g}"
        drawn &= report.plot(folder / f"e2e-{name}.png", f"{arrivals}, load {load:g}", ("E2E, s", "share"), curves)
        for system, runs in systems.items():
            if math.isfinite(mean_s := _spread(runs, "E2E mean, s").median):
                over_load[arrivals][system].append((load, mean_s))
    for arrivals, lines in over_load.items():
        series = {name: ([x for x, _ in points], [y for _, y in points]) for name, points in lines.items()}
        path = folder / f"load-{report.slug(arrivals)}.png"
        drawn &= report.plot(path, arrivals, ("load", "mean E2E, s"), series)
    return drawn


def _row(system: str, repeats: Mapping[int, Outcome]) -> list[object]:
    runs = list(repeats.values())
    pooled = latency(served_e2e_s(runs))
    return [
        system,
        *(f"{_spread(repeats, metric)}{_mark(metric, repeats)}" for metric in METRICS),
        "-" if pooled is None else f"{pooled.p99_s:.3g}{' *' if _failed(repeats) else ''}",
        sum(run.summary.failed for run in runs),
        f"{100 * sum(run.summary.disaggregated_share for run in runs) / len(runs):.0f} %",
    ]


def _compared(systems: PerSystem, reference: str) -> list[list[object]]:
    if reference not in systems or len(systems) < 2:
        return []
    mine = systems[reference]
    rows: list[list[object]] = [
        [name, *(_ratio(mine, runs, metric) for metric in COMPARED)]
        for name, runs in systems.items()
        if name != reference
    ]
    routers = {name: runs for name, runs in systems.items() if name != PLAIN}
    if len(routers) > 1 and reference in routers:
        best = [best_other(routers, reference, metric) for metric in COMPARED]
        ratios = [f"{_ratio(mine, systems[name], metric)} {name}" for name, metric in zip(best, COMPARED, strict=True)]
        rows.append(["best other router", *ratios])
    return rows


def _spread(repeats: Mapping[int, Outcome], metric: str) -> Spread:
    return spread([METRICS[metric](run) for run in repeats.values()])


def _ratio(reference: Mapping[int, Outcome], other: Mapping[int, Outcome], metric: str) -> str:
    found = compare(reference, other, metric)
    return "-" if found is None else f"{found}{_mark(metric, reference, other)}"


def _mark(metric: str, *systems: Mapping[int, Outcome]) -> str:
    return " *" if metric in OF_SERVED and any(map(_failed, systems)) else ""


def _failed(repeats: Mapping[int, Outcome]) -> bool:
    return any(run.summary.failed for run in repeats.values())
