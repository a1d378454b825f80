"""The contest's report: one page of Markdown."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamserve.bench.contest import compare
from streamserve.bench.contest.compare import PerRepeat, PerSystem
from streamserve.bench.contest.contest import AGAIN
from streamserve.bench.contest.folder import Kept
from streamserve.bench.contest.settings import LOADLESS, Point, Settings, given_capacities
from streamserve.bench.contest.summary import COMPARED, E2E_MEAN, E2E_P99, GOODPUT, ITL_P99, METRICS, TTFT, Metric
from streamserve.bench.figures import spread
from streamserve.bench.report import table

WINNERS = (E2E_P99, GOODPUT, TTFT[3], ITL_P99)
TENSOR_PARALLEL = "vllm"
"""The baseline of the paper."""
OWN = "streamserve"
"""What the names of StreamServe's configurations begin with."""


@dataclass(frozen=True, slots=True)
class About:
    """What a report tells beside its figures."""

    command: str
    model: str
    machine: Mapping[str, Any]
    titles: Mapping[str, str]
    """Label -> the system in words, in the order of the report."""
    capacities: Mapping[str, float]
    """Workload -> requests per second, as far as they were measured."""


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
        shown = [(metric, compare.median(runs, metric)) for metric in (E2E_MEAN, E2E_P99, TTFT[3], GOODPUT)]
        told = [f"{metric.title} {compare.number(value)}" for metric, value in shown if value is not None]
        lost = sum(each.lost for each in runs.values())
        told += [f"{lost} of {sum(each.requests for each in runs.values())} requests lost"] if lost else []
        made.append(f"{label}: {', '.join(told) or 'no run'}")
    return made


def _head(kept: Sequence[Kept], settings: Settings, about: About) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about.machine.get("versions", {}).items())
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
        ("capacity, requests/s", _capacity(settings, about)),
        ("rate, requests/s", "shares of the capacity" if settings.rate is None else f"{settings.rate:g}, as given"),
        ("servers", _servers(kept, settings)),
        ("runs left out, as the machine paused", f"{left_out} of {len(kept)}"),
        ("CPU of idle systems during runs, cores", f"{idle:.2f} on average"),
        ("requests whose prompt the server had seen", f"{seen} of {sent}"),
    ]
    return table(["what", "how"], rows)


def _capacity(settings: Settings, about: About) -> str:
    """What loads are shares of."""
    given = given_capacities(settings)
    measured = {name: value for name, value in about.capacities.items() if name not in given}
    sources = ((given, "as given"), (measured, f"{settings.systems[0]}; all requests at once"))
    told = [
        f"{', '.join(f'{name} {each:.3g}' for name, each in some.items())} ({how})" for some, how in sources if some
    ]
    return "; ".join(told) or "-"


def _servers(kept: Sequence[Kept], settings: Settings) -> str:
    if settings.apart:
        return "started and stopped for every run"
    told = (
        "kept up over all repeats" if settings.keep else "started anew for every repeat, idle while another is measured"
    )
    apart = sum(each.apart for each in kept)
    return (
        f"{told}; but for {apart} of {len(kept)} runs started and stopped, as memory did not suffice" if apart else told
    )


def _legend(labels: Sequence[str]) -> str:
    against = ", ".join(f"`{each}`" for each in compare.rivals(labels))
    return (
        "Figures are medians over repeats (lower and upper quartile). A request that was lost (failed or unfinished) "
        "is infinitely late in percentiles of TTFT and E2E. `-`: infinite, or nothing to tell. `*`: some were lost, "
        "and the figure is of the others.\n\n"
        "A ratio is how many times better, in pairs of one repeat: above 1 is better for latencies and rates alike. "
        f"`~`: not beyond noise; there are fewer than {compare.FEWEST} repeats, or their ratios are not all on one "
        "side of 1, or the median is no farther from 1 than the farther quartile of the A/A run, if there was one.\n\n"
        "Here stands the best system by its median, with its ratio to the second best, named behind it; where the best "
        "is not StreamServe, the ratio of the first StreamServe system to it follows. In the tables by load a ratio is "
        f"to the best, by its median, of {against}, named where there are several."
    )


def _winners(point: Point, systems: PerSystem, labels: Sequence[str]) -> list[object]:
    return [str(point), *(_winner(systems, metric, labels) for metric in WINNERS)]


def _winner(systems: PerSystem, metric: Metric, labels: Sequence[str]) -> str:
    """The best system and its lead over the second; if it is not StreamServe, also how the first StreamServe does."""
    every = [label for label in labels if not label.endswith(AGAIN)]
    first = compare.best(systems, metric, every)
    if first is None or math.isinf(compare.median(systems[first], metric) or 0.0):
        return "-"
    second = compare.best(systems, metric, [label for label in every if label != first])
    if second is None:
        return f"`{first}`"
    lead = compare.against(systems, first, second, metric)
    told = f"`{first}`: {lead or '~'}"
    own = next((label for label in every if label.startswith(OWN)), None)
    if own is None or own == second or first.startswith(OWN):
        return told
    behind = compare.against(systems, own, first, metric, named=False)
    return told if behind is None else f"{told}; `{own}`: {behind}"


def _table(systems: PerSystem, labels: Sequence[str]) -> str:
    rows = []
    for label in labels:
        runs = systems.get(label, {})
        if not runs:
            continue
        lost = (sum(each.failed for each in runs.values()), sum(each.unfinished for each in runs.values()))
        rows.append([f"`{label}`", *(_figure(runs, metric) for metric in METRICS), *lost, len(runs)])
    return table(["system", *(metric.title for metric in METRICS), "failed", "unfinished", "repeats"], rows)


def _figure(runs: PerRepeat, metric: Metric) -> str:
    found = compare.values(runs, metric)
    if not found:
        return "-"
    return f"{compare.shown(spread(found))}{' *' if compare.incomplete(metric, runs) else ''}"


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
            runs = systems.get(label, {})
            found = compare.ratios(runs, base, E2E_MEAN)
            if label != TENSOR_PARALLEL and found:
                mark = " *" if compare.incomplete(E2E_MEAN, runs, base) else ""
                rows.append([str(point), f"`{label}`", f"{compare.shown(spread(found))}{mark}"])
    told = (
        "Mean E2E latency of vLLM over all cores without speculation, over that of the system: what arXiv 2604.09562 "
        'calls "latency vs tensor-parallel vLLM" (11 to 18 there, on four GPUs). The paper tells neither how queries '
        "arrived nor that answers had one length. Here lengths are the same. The ratios say nothing of any load."
    )
    return f"{told}\n\n{table(['queries', 'system', 'latency ratio (paper)'], rows)}" if rows else ""
