"""Comparison: policies beside the heuristic, scenario by scenario and seed by seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from agents.statistics import Estimate, Statistic, estimate, iqm, mean, relative
from agents.trial import Act, Episode, MakeEnv, gains, play
from streamserve.types import Slo

AT_ONCE = 16
"""Episodes that run side by side."""
LOSS = 0.02
"""A policy that costs this much more than the heuristic loses, whatever its interval."""
LEAST_SHARE = 0.01
"""Of requests that meet their deadlines, the least that a gain is reckoned on."""


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one episode; latencies of the requests that finished, in seconds."""

    cost: float
    """As the reward weighs it: requests in the system times seconds, deadlines and failures."""
    e2e_mean: float
    e2e_p99: float
    ttft_mean: float
    tpot_mean: float
    slo_share: float
    """Of all requests, those that finished by themselves and in time."""
    failed_share: float


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One policy in one scenario."""

    scenario: str
    policy: str
    seeds: list[int]
    figures: list[Figures]
    """By seed."""


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What hindsight finds in the same episodes, as a policy of this name; see `agents.oracle`."""

    name: str
    figure: str
    """Of `Figures`: what it made small."""
    tries: int
    lasting: dict[str, list[float]] = {}
    """Scenario -> by seed, what is left of the gain where the same decisions meet other luck, as in `Table.gains`."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole comparison."""

    rival: str
    cells: list[Cell]
    figure: str = "cost"
    """By which policies are judged here."""
    bound: Bound | None = None

    @property
    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(cell.scenario for cell in self.cells))

    @property
    def policies(self) -> list[str]:
        """All but the rival and the bound."""
        others = (self.rival, None if self.bound is None else self.bound.name)
        return [name for name in dict.fromkeys(cell.policy for cell in self.cells) if name not in others]

    def cell(self, scenario: str, policy: str) -> Cell:
        """Raises `KeyError`."""
        for cell in self.cells:
            if (cell.scenario, cell.policy) == (scenario, policy):
                return cell
        raise KeyError(f"{policy} in {scenario}")

    def gains(self, scenario: str, policy: str, figure: str | None = None) -> list[float]:
        """By seed: the share of the rival's that is saved or, of `slo_share`, by which there is more.

        Their mean is the ratio of the sums, see `relative`.
        """
        figure = figure or self.figure
        ours = [getattr(each, figure) for each in self.cell(scenario, policy).figures]
        theirs = [getattr(each, figure) for each in self.cell(scenario, self.rival).figures]
        return better(ours, theirs, figure)

    def gain(self, scenario: str, policy: str, figure: str | None = None) -> Estimate:
        """The mean gain with its paired bootstrap interval."""
        return estimate([self.gains(scenario, policy, figure)], np.random.default_rng(0))

    def overall(self, policy: str, figure: str | None = None, statistic: Statistic = iqm) -> Estimate:
        """Over all scenarios, resampled within each."""
        strata = [self.gains(scenario, policy, figure) for scenario in self.scenarios]
        return estimate(strata, np.random.default_rng(0), statistic)

    def losses(self, policy: str) -> list[str]:
        """The scenarios in which it does worse: significantly, or by more than `LOSS`."""
        found = {scenario: self.gain(scenario, policy) for scenario in self.scenarios}
        return [scenario for scenario, gain in found.items() if gain.below_0 or gain.value < -LOSS]


def better(ours: Sequence[float], theirs: Sequence[float], figure: str) -> list[float]:
    """By pair, the share of theirs that is saved or, of `slo_share`, by which there is more; see `relative`."""
    if figure != "slo_share":
        return gains(ours, theirs)
    more: list[float] = relative(np.subtract(ours, theirs), np.array(theirs), LEAST_SHARE).tolist()
    return more


def compare(
    makers: Mapping[str, MakeEnv],
    acts: Mapping[str, Callable[[MakeEnv], Act]],
    seeds: Sequence[int],
    slo: Slo,
    say: Callable[[str], None],
) -> Table:
    """Every policy in every scenario, over the same episodes.

    makers: scenario -> what makes its environments. acts: policy -> how it acts in such an environment; the first one
    is the rival. slo: what latencies are judged by afterwards; requests know only of their environment's.
    """
    cells = []
    for scenario, make in makers.items():
        for policy, act in acts.items():
            episodes: list[Episode] = []
            for first in range(0, len(seeds), AT_ONCE):
                episodes += play(make, seeds[first : first + AT_ONCE], act(make))
            cells.append(Cell(scenario, policy, list(seeds), [figures(each, slo) for each in episodes]))
            say(f"{scenario}: {policy} costs {mean(np.array([each.cost for each in cells[-1].figures])):.4g}")
    return Table(next(iter(acts)), cells)


def figures(episode: Episode, slo: Slo) -> Figures:
    """The figures of an episode."""
    results = [replace(each, slo=slo) for each in episode.results]
    finished = [each for each in results if each.finish.by_itself]
    e2e = [each.e2e_s for each in finished] or [float("nan")]
    ttft = [each.ttft_s for each in finished if each.ttft_s is not None] or [float("nan")]
    tpot = [each.tpot_s for each in finished if each.tpot_s is not None] or [float("nan")]
    count = max(1, len(results))
    return Figures(
        cost=episode.cost,
        e2e_mean=float(np.mean(e2e)),
        e2e_p99=float(np.percentile(e2e, 99)),
        ttft_mean=float(np.mean(ttft)),
        tpot_mean=float(np.mean(tpot)),
        slo_share=sum(each.slo_met for each in results) / count,
        failed_share=1 - len(finished) / count,
    )
