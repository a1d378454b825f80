"""What simulated runs say: a table and plots."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamserve.bench import report
from streamserve.types import LaneId
from streamserve.workload.openloop import Latency, Summary

HEADER = (
    "system", "E2E, s", "TTFT, s", "TPOT, ms", "goodput, 1/s", "failed", "two lanes", "lane shares", "x real time",
    "CPU us/request", "decision us",
)  # fmt: skip
SHOWN_LANES = 4
SURVIVORS = "* "
"""Before latencies of a system some of whose requests failed: one that is turned away at once is not a fast one."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """One run."""

    arrivals: str
    load: float
    rate: float
    """Arrivals per second."""
    system: str
    seed: int
    summary: Summary
    cpu_s: float
    """CPU time of the whole run."""
    decision_us: tuple[float, float]
    """Median and p99 CPU time of the router."""
    restarts: int
    e2e_s: tuple[float, ...]
    """Of every request that was served, in order of arrival."""

    @property
    def times_real(self) -> float:
        """Simulated seconds per second of CPU time."""
        return self.summary.duration_s / self.cpu_s

    @property
    def cpu_us_per_request(self) -> float:
        return 1e6 * self.cpu_s / self.summary.requests


def text(made: Sequence[Simulated]) -> str:
    """The tables in Markdown; latencies are means over the seeds of mean / p50 / p90 / p99, in seconds."""
    parts = []
    for (process, load), outcomes in _cells(made).items():
        parts.append(f"## {process}, load {load:g} ({outcomes[0].rate:.3g} requests/s)")
        rows = [_row(system, runs) for system, runs in _by_system(outcomes).items()]
        parts.append(report.table(HEADER, rows))
        if any(run.summary.failed for run in outcomes):
            parts.append(f"{SURVIVORS}of the requests that were served; see failed")
    return "\n\n".join(parts) + "\n"


def plots(made: Sequence[Simulated], folder: Path) -> bool:
    """CDFs of E2E latency per cell, and mean E2E against load; False where matplotlib is missing."""
    drawn = True
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for (process, load), outcomes in _cells(made).items():
        runs = _by_system(outcomes)
        cdfs = {name: report.cumulative([each for run in same for each in run.e2e_s]) for name, same in runs.items()}
        name = f"{report.slug(process)}-{load:g}"
        drawn &= report.plot(folder / f"e2e-{name}.png", f"{process}, load {load:g}", ("E2E, s", "share"), cdfs)
        for system, same in runs.items():
            points = curves.setdefault(process, {}).setdefault(system, [])
            if served := [each for run in same for each in run.e2e_s]:
                points.append((load, statistics.mean(served)))
    for process, lines in curves.items():
        series = {name: ([x for x, _ in points], [y for _, y in points]) for name, points in lines.items()}
        drawn &= report.plot(folder / f"load-{report.slug(process)}.png", process, ("load", "mean E2E, s"), series)
    return drawn


def _row(system: str, runs: Sequence[Simulated]) -> list[object]:
    summaries = [run.summary for run in runs]
    failed = sum(each.failed for each in summaries)
    mark = SURVIVORS if failed else ""

    def mean(take: Callable[[Simulated], float]) -> float:
        return statistics.mean(map(take, runs))

    return [
        system,
        mark + _latency([each.e2e for each in summaries], 1),
        mark + _latency([each.ttft for each in summaries], 1),
        mark + _latency([each.tpot for each in summaries], 1000),
        mean(lambda run: run.summary.goodput_per_s),
        failed,
        f"{100 * mean(lambda run: run.summary.disaggregated_share):.0f} %",
        _shares([each.lane_share for each in summaries]),
        f"{mean(lambda run: run.times_real):,.0f}",
        f"{mean(lambda run: run.cpu_us_per_request):,.0f}",
        f"{mean(lambda run: run.decision_us[0]):.0f} / {mean(lambda run: run.decision_us[1]):.0f}",
    ]


def _latency(latencies: Sequence[Latency | None], factor: float) -> str:
    known = [each for each in latencies if each is not None]
    if not known:
        return "-"
    columns = zip(*((each.mean_s, each.p50_s, each.p90_s, each.p99_s) for each in known), strict=True)
    return " / ".join(f"{factor * statistics.mean(column):.3g}" for column in columns)


def _shares(shares: Sequence[Mapping[LaneId, float]]) -> str:
    """Per cent of the requests that each lane decoded; of many lanes only the least and the most."""
    lanes = sorted({lane for each in shares for lane in each})
    means = [100 * statistics.mean(each.get(lane, 0.0) for each in shares) for lane in lanes]
    if len(means) > SHOWN_LANES:
        return f"{min(means):.3g} .. {max(means):.3g} %"
    return ", ".join(f"{each:.0f}" for each in means) + " %"


def _cells(made: Sequence[Simulated]) -> dict[tuple[str, float], list[Simulated]]:
    groups: dict[tuple[str, float], list[Simulated]] = defaultdict(list)
    for each in made:
        groups[each.arrivals, each.load].append(each)
    return groups


def _by_system(made: Sequence[Simulated]) -> dict[str, list[Simulated]]:
    groups: dict[str, list[Simulated]] = defaultdict(list)
    for each in made:
        groups[each.system].append(each)
    return groups
