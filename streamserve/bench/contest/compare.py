"""Systems against each other: within each repeat, and against what two servers of the same system differ by."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from streamserve.bench.contest.contest import AGAIN
from streamserve.bench.contest.folder import Kept
from streamserve.bench.contest.settings import Point, Settings
from streamserve.bench.contest.summary import Figures, Metric, figures
from streamserve.bench.figures import Spread, spread

PerRepeat = Mapping[int, Figures]
PerSystem = Mapping[str, PerRepeat]
"""Label -> repeat -> figures."""

VLLM = "vllm"
"""What the names of the systems begin with that the others are measured against."""


def grouped(kept: Iterable[Kept], settings: Settings) -> dict[Point, dict[str, dict[int, Figures]]]:
    """The figures of all runs over which the machine did not pause."""
    groups: dict[Point, dict[str, dict[int, Figures]]] = defaultdict(lambda: defaultdict(dict))
    for each in kept:
        cell = each.run.cell
        if each.sound:
            made = figures(each.run, settings.slo_ttft_s, settings.slo_tpot_s)
            groups[Point(cell.workload, cell.arrivals, cell.load)][cell.system][cell.repeat] = made
    return {point: dict(systems) for point, systems in groups.items()}


def values(runs: PerRepeat, metric: Metric) -> list[float]:
    """The metric in every repeat that has it."""
    return [value for each in runs.values() if (value := metric.take(each)) is not None]


def median(runs: PerRepeat, metric: Metric) -> float | None:
    """Over the repeats; None where nothing was served."""
    found = values(runs, metric)
    return statistics.median(found) if found else None


def times_better(runs: PerRepeat, base: PerRepeat, metric: Metric) -> Spread | None:
    """How many times better, in the repeats that both have; None without any."""
    ratios = []
    for repeat in sorted(runs.keys() & base.keys()):
        mine, other = metric.take(runs[repeat]), metric.take(base[repeat])
        if mine is not None and other is not None:
            ratios.append(metric.times_better(mine, other))
    return spread(ratios) if ratios else None


def best(systems: PerSystem, metric: Metric, among: Sequence[str]) -> str | None:
    """Of these labels the one with the best median; None where nothing was served."""
    medians = {label: found for label in among if (found := median(systems.get(label, {}), metric)) is not None}
    if not medians:
        return None
    pick = max if metric.more_is_better else min
    return pick(medians, key=lambda label: medians[label])


def rivals(labels: Sequence[str]) -> list[str]:
    """The vLLM systems, whose best the others are compared with; without any, the first system."""
    return [label for label in labels if label.startswith(VLLM) and not label.endswith(AGAIN)] or list(labels[:1])


def noise(systems: PerSystem, metric: Metric) -> Spread | None:
    """How many times better the first system's second server is than its first; None without an A/A run."""
    for label, runs in systems.items():
        if label.endswith(AGAIN):
            return times_better(runs, systems.get(label.removesuffix(AGAIN), {}), metric)
    return None


def width(found: Spread | None) -> float:
    """How far from 1 noise goes: the farther quartile; 0 where it was not measured."""
    return 0.0 if found is None else max(abs(found.low - 1), abs(found.high - 1))


FEWEST = 3


def shown(found: Spread) -> str:
    """Median and quartiles; of one value, the value."""
    return f"{found.median:.3g}" + (f" ({found.low:.3g} .. {found.high:.3g})" if found.n > 1 else "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A system against the best of its rivals at one point."""

    rival: str
    among: int
    """How many rivals there are."""
    times: Spread
    noise: Spread | None

    @property
    def beyond_noise(self) -> bool:
        """Whether both quartiles lie on one side of 1, and the median farther from it than the A/A run's quartiles.

        Never of fewer than `FEWEST` repeats: their quartiles say nothing.
        """
        apart = self.times.n >= FEWEST and (self.times.low > 1 or self.times.high < 1)
        return apart and abs(self.times.median - 1) > width(self.noise)

    def __str__(self) -> str:
        named = f" {self.rival}" if self.among > 1 else ""
        return f"{shown(self.times)}{named}{'' if self.beyond_noise else ' ~'}"


def verdict(systems: PerSystem, label: str, metric: Metric, labels: Sequence[str]) -> Verdict | None:
    """A system against the best of the other vLLM systems; None where there is nothing to compare."""
    others = [each for each in rivals(labels) if each != label]
    rival = best(systems, metric, others)
    if rival is None:
        return None
    times = times_better(systems.get(label, {}), systems[rival], metric)
    return None if times is None else Verdict(rival, len(rivals(labels)), times, noise(systems, metric))
