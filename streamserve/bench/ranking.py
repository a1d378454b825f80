"""What the runs of `streamserve.bench.routing` say: every system's figures per cell, and ratios within repeats."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamserve.bench import report
from streamserve.bench.figures import Spread, ratio, spread
from streamserve.bench.systems import PLAIN
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


Cell = tuple[str, float]
"""Arrivals and load."""
PerSystem = Mapping[str, Mapping[int, Outcome]]
"""System -> repeat -> its run."""

MAX_GAP_S = 2.0


def _of(pick: Callable[[Summary], Latency | None], take: Callable[[Latency], float]) -> Callable[[Summary], float]:
    def metric(summary: Summary) -> float:
        latency = pick(summary)
        return float("inf") if latency is None else take(latency)

    return metric


METRICS: Mapping[str, Callable[[Summary], float]] = {
    "E2E mean, s": _of(lambda s: s.e2e, lambda v: v.mean_s),
    "E2E p99, s": _of(lambda s: s.e2e, lambda v: v.p99_s),
    "TTFT mean, s": _of(lambda s: s.ttft, lambda v: v.mean_s),
    "TTFT p99, s": _of(lambda s: s.ttft, lambda v: v.p99_s),
    "TPOT mean, s": _of(lambda s: s.tpot, lambda v: v.mean_s),
    "TPOT p99, s": _of(lambda s: s.tpot, lambda v: v.p99_s),
    "ITL p99, s": _of(lambda s: s.itl, lambda v: v.p99_s),
    "tokens/s": lambda summary: summary.output_tokens_per_s,
    "goodput, 1/s": lambda summary: summary.goodput_per_s,
}
HIGHER_IS_BETTER = ("tokens/s", "goodput, 1/s")
COMPARED = ("E2E mean, s", "E2E p99, s", "TTFT mean, s", "TTFT p99, s", "TPOT p99, s", "goodput, 1/s")


def text(outcomes: Sequence[Outcome], reference: str) -> str:
    """The report in Markdown.

    reference: the system whose ratio to each other one is given: below 1 is better for latencies, above 1 for goodput.
    """
    sound = [each for each in outcomes if each.machine_gap_s <= MAX_GAP_S]
    parts = [f"{len(outcomes) - len(sound)} of {len(outcomes)} runs are left out: the machine paused."]
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
    """Ratio of a metric in the repeats that both have; None without any, or where it is 0 or infinite in one."""
    take = METRICS[metric]
    both = sorted(reference.keys() & other.keys())
    pairs = [(take(reference[i].summary), take(other[i].summary)) for i in both]
    usable = [(value, base) for value, base in pairs if 0 < base < float("inf") and value < float("inf")]
    return ratio([value for value, _ in usable], [base for _, base in usable]) if usable else None


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
        curves = {name: report.cumulative(_pooled(runs)) for name, runs in systems.items()}
        name = f"{report.slug(arrivals)}-{load:g}"
        drawn &= report.plot(folder / f"e2e-{name}.png", f"{arrivals}, load {load:g}", ("E2E, s", "share"), curves)
        for system, runs in systems.items():
            over_load[arrivals][system].append((load, _spread(runs, "E2E mean, s").median))
    for arrivals, lines in over_load.items():
        series = {name: ([x for x, _ in points], [y for _, y in points]) for name, points in lines.items()}
        path = folder / f"load-{report.slug(arrivals)}.png"
        drawn &= report.plot(path, arrivals, ("load", "mean E2E, s"), series)
    return drawn


def _row(system: str, repeats: Mapping[int, Outcome]) -> list[object]:
    pooled = latency(_pooled(repeats))
    runs = list(repeats.values())
    return [
        system,
        *(_spread(repeats, metric) for metric in METRICS),
        "-" if pooled is None else pooled.p99_s,
        sum(run.summary.failed for run in runs),
        f"{100 * sum(run.summary.disaggregated_share for run in runs) / len(runs):.0f} %",
    ]


def _compared(systems: PerSystem, reference: str) -> list[list[object]]:
    if reference not in systems or len(systems) < 2:
        return []
    mine = systems[reference]
    rows: list[list[object]] = [
        [name, *(compare(mine, runs, metric) or "-" for metric in COMPARED)]
        for name, runs in systems.items()
        if name != reference
    ]
    routers = {name: runs for name, runs in systems.items() if name != PLAIN}
    if len(routers) > 1 and reference in routers:
        best = [best_other(routers, reference, metric) for metric in COMPARED]
        ratios = [
            f"{compare(mine, systems[name], metric) or '-'} {name}" for name, metric in zip(best, COMPARED, strict=True)
        ]
        rows.append(["best other router", *ratios])
    return rows


def _spread(repeats: Mapping[int, Outcome], metric: str) -> Spread:
    return spread([METRICS[metric](run.summary) for run in repeats.values()])


def _pooled(repeats: Mapping[int, Outcome]) -> list[float]:
    return [request.e2e_s for run in repeats.values() for request in run.requests]
