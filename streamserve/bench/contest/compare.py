"""Systems against each other: within each repeat, and against what two servers of the same system differ by."""

import math
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
    """Over the repeats; None without any, infinite where in half of them too much was lost."""
    found = values(runs, metric)
    return statistics.median(found) if found else None


def incomplete(metric: Metric, *systems: PerRepeat) -> bool:
    """Whether requests were lost in any of these runs that have no part in the metric."""
    return metric.of_served and any(each.lost for runs in systems for each in runs.values())


def ratios(runs: PerRepeat, base: PerRepeat, metric: Metric) -> list[float]:
    """How many times better in each repeat that both have."""
    made = []
    for repeat in sorted(runs.keys() & base.keys()):
        mine, other = metric.take(runs[repeat]), metric.take(base[repeat])
        if mine is not None and other is not None:
            made.append(metric.times_better(mine, other))
    return made


def best(systems: PerSystem, metric: Metric, among: Sequence[str]) -> str | None:
    """Of these labels the one with the best median, which may be infinite; None where there is none."""
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
            found = ratios(runs, systems.get(label.removesuffix(AGAIN), {}), metric)
            return spread(found) if found else None
    return None


def width(found: Spread | None) -> float:
    """How far from 1 noise goes: the farther quartile; 0 where it was not measured."""
    return 0.0 if found is None else max(abs(found.low - 1), abs(found.high - 1))


FEWEST = 5
"""Ratios by which a difference can be told from noise: as many tosses of a coin fall on one side in 1 of 16 cases."""


def beyond(found: Sequence[float], floor: float) -> bool:
    """Whether ratios tell a difference: at least `FEWEST`, all on one side of 1, their median farther off than `floor`.

    It is the sign test at two-sided p = 0.06 (of five ratios; less of more).
    """
    apart = len(found) >= FEWEST and (min(found) > 1 or max(found) < 1)
    return apart and abs(statistics.median(found) - 1) > floor


def number(value: float) -> str:
    """Three digits; `-` of what is infinite."""
    return "-" if math.isinf(value) else f"{value:.3g}"


def shown(found: Spread) -> str:
    """Median and quartiles; of one value, the value."""
    single = found.n == 1 or math.isinf(found.low)
    return number(found.median) + ("" if single else f" ({number(found.low)} .. {number(found.high)})")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A system against another one at one point."""

    rival: str
    named: bool
    """Whether the rival has to be told."""
    ratios: tuple[float, ...]
    """How many times better it is, by repeat."""
    noise: Spread | None
    incomplete: bool = False
    """Whether requests of either were lost that have no part in the metric."""

    @property
    def times(self) -> Spread:
        return spread(self.ratios)

    @property
    def beyond_noise(self) -> bool:
        """Whether the ratios tell a difference that is wider than the A/A run's."""
        return beyond(self.ratios, width(self.noise))

    def __str__(self) -> str:
        named = f" {self.rival}" if self.named else ""
        return f"{shown(self.times)}{' *' if self.incomplete else ''}{named}{'' if self.beyond_noise else ' ~'}"


def against(systems: PerSystem, label: str, rival: str, metric: Metric, *, named: bool = True) -> Verdict | None:
    """A system against this one; None where they have no repeat in common."""
    runs, base = systems.get(label, {}), systems.get(rival, {})
    found = tuple(ratios(runs, base, metric))
    if not found:
        return None
    return Verdict(rival, named, found, noise(systems, metric), incomplete(metric, runs, base))


def verdict(systems: PerSystem, label: str, metric: Metric, labels: Sequence[str]) -> Verdict | None:
    """A system against the best of the other vLLM systems; None where there is nothing to compare."""
    every = rivals(labels)
    rival = best(systems, metric, [each for each in every if each != label])
    return None if rival is None else against(systems, label, rival, metric, named=len(every) > 1)
