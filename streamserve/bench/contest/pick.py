"""Which topology to serve with: what a contest between them says, and nothing that noise could have said."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamserve.bench.contest import compare
from streamserve.bench.contest.compare import PerSystem
from streamserve.bench.contest.presets import Topology
from streamserve.bench.contest.settings import Point
from streamserve.bench.contest.summary import E2E_P99, GOODPUT, Metric
from streamserve.bench.figures import Spread, spread

LEAST_MARGIN = 0.03
"""Less than this is no reason to leave the default, however quiet the machine is."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A topology and why."""

    topology: Topology
    reason: str
    margin: Spread | None = None
    """How many times better than the default; None = the default stays."""


def choose(groups: Mapping[Point, PerSystem], candidates: Sequence[Topology]) -> Choice:
    """The topology to serve with: the best by SLO goodput, else by E2E p99, else the first, which is the default.

    "Best" is the highest median, over all points and repeats, of the ratio to the default within the same repeat. It
    counts if all of these, at least `compare.FEWEST`, are above 1, and their median by more than the A/A run's
    quartiles and `LEAST_MARGIN`; by E2E only where goodput is not worse by as much.
    """
    default, *others = candidates
    for metric in (GOODPUT, E2E_P99):
        floor = max(LEAST_MARGIN, _noise(groups, metric))
        found = {each: ratios for each in others if (ratios := _over(groups, each.system, default.system, metric))}
        found = {each: ratios for each, ratios in found.items() if _keeps_goodput(groups, each, default)}
        best = max(found, key=lambda each: statistics.median(found[each]), default=None)
        if best is None or not compare.beyond(found[best], floor):
            continue
        margin = spread(found[best])
        if margin.median > 1:
            reason = f"{metric.title} {margin} times better than {default.title}, noise {100 * floor:.0f} %"
            return Choice(best, reason, margin)
    told = "; ".join(f"{each.title} {_told(groups, each, default)}" for each in others)
    return Choice(default, f"no difference beyond noise: the default stays ({told})")


def _keeps_goodput(groups: Mapping[Point, PerSystem], each: Topology, default: Topology) -> bool:
    ratios = _over(groups, each.system, default.system, GOODPUT)
    return not ratios or statistics.median(ratios) > 1 - max(LEAST_MARGIN, _noise(groups, GOODPUT))


def _over(groups: Mapping[Point, PerSystem], label: str, base: str, metric: Metric) -> list[float]:
    """The ratios of all points and repeats."""
    return [
        ratio
        for systems in groups.values()
        for ratio in compare.ratios(systems.get(label, {}), systems.get(base, {}), metric)
    ]


def _noise(groups: Mapping[Point, PerSystem], metric: Metric) -> float:
    widths = [compare.width(compare.noise(systems, metric)) for systems in groups.values()]
    return statistics.median(widths) if widths else 0.0


def _told(groups: Mapping[Point, PerSystem], each: Topology, default: Topology) -> str:
    goodput = _over(groups, each.system, default.system, GOODPUT)
    e2e = _over(groups, each.system, default.system, E2E_P99)
    return f"goodput x {spread(goodput) if goodput else '-'}, E2E p99 x {spread(e2e) if e2e else '-'}"
