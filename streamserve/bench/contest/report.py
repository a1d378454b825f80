"""The contest's report: one page of Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamserve.bench.contest import compare
from streamserve.bench.contest.compare import PerSystem
from streamserve.bench.contest.contest import AGAIN
from streamserve.bench.contest.folder import Kept
from streamserve.bench.contest.settings import LOADLESS, Point, Settings
from streamserve.bench.contest.summary import COMPARED, E2E_MEAN, E2E_P99, GOODPUT, ITL_P99, METRICS, TTFT, Metric
from streamserve.bench.figures import spread
from streamserve.bench.report import table

WINNERS = (E2E_P99, GOODPUT, TTFT[3], ITL_P99)
TENSOR_PARALLEL = "vllm"
"""The baseline of the paper."""


@dataclass(frozen=True, slots=True)
class About:
    """What a report tells beside its figures."""

    command: str
    model: str
    machine: Mapping[str, Any]
    titles: Mapping[str, str]
    """Label -> the system in words, in the order of the report."""
    capacities: Mapping[str, float]


def text(kept: Sequence[Kept], settings: Settings, about: About) -> str:
    """The report. A run over which the machine paused is counted and left out."""
    groups = compare.grouped(kept, settings)
    labels = list(about.titles)
    parts = [
        "# streamserve bench",
        _head(kept, settings, about),
        "## Systems",
        table(["name", "what it is"], [[f"`{name}`", title] for name, title in about.titles.items()]),
        "## What wins where",
        _legend(labels),
        table(["load", *(metric.title for metric in WINNERS)], [_winners(*each, labels) for each in groups.items()]),
    ]
    if paper := _paper(groups, labels):
        parts += ["## The paper's own definition", paper]
    for point, systems in groups.items():
        parts += [f"## {point}", _table(systems, labels), _ratios(systems, labels)]
    return "\n\n".join(part for part in parts if part) + "\n"


def lines(systems: PerSystem, labels: Sequence[str]) -> list[str]:
    """A line for each system at one point: the few figures that decide."""
    made = []
    for label in labels:
        runs = systems.get(label, {})
        shown = [(metric.title, compare.median(runs, metric)) for metric in (E2E_MEAN, E2E_P99, TTFT[3], GOODPUT)]
        told = ", ".join(f"{title} {value:.3g}" for title, value in shown if value is not None)
        made.append(f"{label}: {told or 'nothing served'}")
    return made


def _head(kept: Sequence[Kept], settings: Settings, about: About) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about.machine.get("versions", {}).items())
    capacity = ", ".join(f"{name} {value:.3g}" for name, value in about.capacities.items())
    left_out = sum(not each.sound for each in kept)
    sent = sum(len(each.run.samples) for each in kept)
    seen = sum(each.seen for each in kept)
    idle = statistics.fmean(each.idle_cores for each in kept) if kept else 0.0
    clients = ", ".join(sorted({each.run.client for each in kept})) or "-"
    rows = [
        ("command", f"`{about.command}`"),
        ("machine", f"{about.machine.get('processor', '?')}, {about.machine.get('cores', '?')} cores"),
        ("date", about.machine.get("date", "?")),
        ("versions", versions),
        ("model", about.model),
        ("load generator", clients),
        ("requests of a run, repeats", f"{settings.requests}, {settings.repeats}"),
        ("SLO", f"TTFT <= {settings.slo_ttft_s:g} s and TPOT <= {settings.slo_tpot_s:g} s"),
        ("capacity, requests/s", f"{capacity or '-'} ({settings.systems[0]}; all requests at once)"),
        ("rate, requests/s", "shares of the capacity" if settings.rate is None else f"{settings.rate:g}, as given"),
        ("servers", _servers(settings)),
        ("runs left out, as the machine paused", f"{left_out} of {len(kept)}"),
        ("CPU of idle systems during runs, cores", f"{idle:.2f} on average"),
        ("requests whose prompt the server had seen", f"{seen} of {sent}"),
    ]
    return table(["what", "how"], rows)


def _servers(settings: Settings) -> str:
    if settings.apart:
        return "started and stopped for every run"
    return (
        "kept up over all repeats" if settings.keep else "started anew for every repeat, idle while another is measured"
    )


def _legend(labels: Sequence[str]) -> str:
    against = ", ".join(f"`{each}`" for each in compare.rivals(labels))
    return (
        "Figures are medians over repeats (lower and upper quartile). A ratio is how many times better, in pairs of "
        "one repeat: above 1 is better for latencies and rates alike. It is against the best, by its median, of "
        f"{against}, named behind it where there are several. `~`: not beyond noise; the quartiles straddle 1, or the "
        "median is no farther from 1 than the farther quartile of the A/A run, or there are fewer than three repeats."
    )


def _winners(point: Point, systems: PerSystem, labels: Sequence[str]) -> list[object]:
    return [str(point), *(_winner(systems, metric, labels) for metric in WINNERS)]


def _winner(systems: PerSystem, metric: Metric, labels: Sequence[str]) -> str:
    first = compare.best(systems, metric, [label for label in labels if not label.endswith(AGAIN)])
    if first is None:
        return "-"
    found = compare.verdict(systems, first, metric, labels)
    return f"`{first}`" if found is None else f"`{first}`: {found}"


def _table(systems: PerSystem, labels: Sequence[str]) -> str:
    rows = []
    for label in labels:
        runs = systems.get(label, {})
        if not runs:
            continue
        lost = (sum(each.failed for each in runs.values()), sum(each.unfinished for each in runs.values()))
        shown = [compare.shown(spread(found)) if (found := compare.values(runs, metric)) else "-" for metric in METRICS]
        rows.append([f"`{label}`", *shown, *lost, len(runs)])
    return table(["system", *(metric.title for metric in METRICS), "failed", "unfinished", "repeats"], rows)


def _ratios(systems: PerSystem, labels: Sequence[str]) -> str:
    rows: list[list[object]] = []
    for label in labels:
        if label in systems and not label.endswith(AGAIN):
            found = [compare.verdict(systems, label, metric, labels) for metric in COMPARED]
            if any(found):
                rows.append([f"`{label}`", *("-" if each is None else each for each in found)])
    floor = [compare.noise(systems, metric) for metric in COMPARED]
    if any(floor):
        rows.append(["A/A: noise", *("-" if each is None else compare.shown(each) for each in floor)])
    return table(["times better", *(metric.title for metric in COMPARED)], rows) if rows else ""


def _paper(groups: Mapping[Point, PerSystem], labels: Sequence[str]) -> str:
    """Mean E2E of tensor-parallel vLLM over that of each system, for arrivals that know no load."""
    if TENSOR_PARALLEL not in labels:
        return ""
    rows = []
    for point, systems in groups.items():
        base = systems.get(TENSOR_PARALLEL, {})
        for label in labels if point.arrivals in LOADLESS else ():
            times = compare.times_better(systems.get(label, {}), base, E2E_MEAN)
            if label != TENSOR_PARALLEL and times is not None:
                rows.append([str(point), f"`{label}`", compare.shown(times)])
    told = (
        "Mean E2E latency of vLLM over all cores without speculation, over that of the system: what arXiv 2604.09562 "
        'calls "latency vs tensor-parallel vLLM" (11 to 18 there, on four GPUs). The paper tells neither how queries '
        "arrived nor that answers had one length. Here lengths are the same. The ratios say nothing of any load."
    )
    return f"{told}\n\n{table(['queries', 'system', 'latency ratio (paper)'], rows)}" if rows else ""
