"""The contest's pictures: latency and throughput against load, distributions, and what lanes did meanwhile."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from streamserve.bench import report
from streamserve.bench.contest import compare
from streamserve.bench.contest.cell import Sample, Watched
from streamserve.bench.contest.compare import PerSystem
from streamserve.bench.contest.folder import Kept
from streamserve.bench.contest.settings import LOADLESS, Point, Settings
from streamserve.bench.contest.summary import E2E_MEAN, E2E_P99, GOODPUT, THROUGHPUT, TTFT

Series = dict[str, tuple[Sequence[float], ...]]

OVER_LOAD = (E2E_MEAN, E2E_P99, TTFT[3], THROUGHPUT, GOODPUT)
DISTRIBUTIONS: Mapping[str, Callable[[Sample], float | None]] = {
    "TTFT": lambda sample: sample.ttft_s,
    "TPOT": lambda sample: sample.tpot_s,
    "E2E": lambda sample: sample.e2e_s,
}


def draw(kept: Sequence[Kept], settings: Settings, folder: Path) -> list[Path]:
    """Draw everything; where the pictures lie. None where matplotlib is missing."""
    sound = [each for each in kept if each.sound]
    drawn = [
        *_over_load(compare.grouped(sound, settings), folder),
        *_distributions(sound, folder),
        *_lanes(sound, folder),
    ]
    return [path for path in drawn if path.exists()]


def _over_load(groups: Mapping[Point, PerSystem], folder: Path) -> list[Path]:
    lines: dict[tuple[str, str], list[tuple[Point, PerSystem]]] = defaultdict(list)
    for point, systems in groups.items():
        if point.arrivals not in LOADLESS:
            lines[point.workload, point.arrivals].append((point, systems))
    made = []
    for (workload, arrivals), at in lines.items():
        at.sort(key=lambda each: each[0].load)
        for metric in OVER_LOAD:
            series: Series = {}
            for label in dict.fromkeys(label for _, systems in at for label in systems):
                found = [(p.load, compare.median(systems.get(label, {}), metric)) for p, systems in at]
                shown = [(load, value) for load, value in found if value is not None and math.isfinite(value)]
                series[label] = ([load for load, _ in shown], [value for _, value in shown])
            path = folder / f"load-{_slug(workload, arrivals, metric.title)}.png"
            made += _plot(path, f"{workload}, {arrivals}", ("load, share of capacity", metric.title), series)
    return made


def _distributions(kept: Sequence[Kept], folder: Path) -> list[Path]:
    pooled: dict[Point, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for each in kept:
        cell = each.run.cell
        point = Point(cell.workload, cell.arrivals, cell.load)
        pooled[point][cell.system] += [sample for sample in each.run.samples if sample.error is None]
    made = []
    for point, systems in pooled.items():
        for name, take in DISTRIBUTIONS.items():
            taken = {
                label: [v for each in samples if (v := take(each)) is not None] for label, samples in systems.items()
            }
            series: Series = {label: report.cumulative(values) for label, values in taken.items() if values}
            path = folder / f"cdf-{_slug(name, point.workload, point.arrivals, f'{point.load:g}')}.png"
            made += _plot(path, str(point), (f"{name}, s", "share of requests, all repeats"), series)
    return made


def _lanes(kept: Sequence[Kept], folder: Path) -> list[Path]:
    """Depth and shares of the requests by lane over time, in the first repeat of every system that tells of them."""
    made = []
    for each in kept:
        run, cell = each.run, each.run.cell
        if cell.repeat or not run.watched:
            continue
        title = f"{cell.system}: {Point(cell.workload, cell.arrivals, cell.load)}"
        slug = _slug(cell.system, cell.workload, cell.arrivals, f"{cell.load:g}")
        depth = _over_time(run.watched, lambda at: at.depth)
        made += _plot(folder / f"depth-{slug}.png", title, ("s", "mean verified draft tokens"), depth)
        made += _plot(folder / f"lanes-{slug}.png", title, ("s", "share of requests"), _over_time(run.watched, _shares))
    return made


def _over_time(watched: Sequence[Watched], take: Callable[[Watched], Mapping[str, float]]) -> Series:
    lanes: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for at in watched:
        for lane, value in take(at).items():
            lanes[lane].append((at.at_s, value))
    return {lane: ([at_s for at_s, _ in points], [value for _, value in points]) for lane, points in lanes.items()}


def _shares(at: Watched) -> dict[str, float]:
    """Of the requests on all lanes, running and waiting, each lane's share; nothing while there are none."""
    lanes = {lane: at.running.get(lane, 0) + at.waiting.get(lane, 0) for lane in {**at.running, **at.waiting}}
    total = sum(lanes.values())
    return {lane: count / total for lane, count in lanes.items()} if total else {}


def _plot(path: Path, title: str, axes: tuple[str, str], series: Series) -> list[Path]:
    if not any(x for x, _ in series.values()):
        return []
    report.plot(path, title, axes, series)
    return [path]


def _slug(*parts: str) -> str:
    return "-".join(report.slug(part).strip("_") for part in parts)
