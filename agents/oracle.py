"""Oracle: what hindsight would have won over the heuristic in the episodes of a comparison."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import msgspec

from agents.comparison import Bound, Cell, Figures, Table, better, figures
from agents.trial import Episode, MakeEnv
from envs.routing import RoutingEnv
from streamserve.errors import ConfigError
from streamserve.simulation import hindsight
from streamserve.simulation.run import Simulation
from streamserve.types import Slo

NAME = "hindsight"
LUCKS = 4
"""With how many others what was found is tried."""
FIGURES = {"mean": "cost", "p99": "e2e_p99", "goodput": "slo_share"}
"""Goal -> the figure that it is."""


@dataclass(frozen=True, slots=True)
class Search:
    """How it is looked for."""

    tries: int
    """Per episode."""
    goal: str = "mean"
    """Of `FIGURES`."""
    jobs: int = 1
    """Processes that work at once."""


def bounded(table: Table, makers: Mapping[str, MakeEnv], search: Search, slo: Slo, say: Callable[[str], None]) -> Table:
    """The comparison with the bound in the same episodes. makers: those it was made with. Raises `ConfigError`."""
    if search.goal not in FIGURES:
        raise ConfigError(f"--oracle-of {search.goal!r}: write one of {', '.join(FIGURES)}")
    figure = FIGURES[search.goal]
    cells = []
    lasting: dict[str, list[float]] = {}
    for scenario, make in makers.items():
        seeds = table.cell(scenario, table.rival).seeds
        found = _found(make, seeds, search)
        cells.append(Cell(scenario, NAME, seeds, [figures_of(each.run, each.seed, slo) for each in found]))
        theirs, ours = ([each.elsewhere_mean(side, figure, slo) for each in found] for side in (0, 1))
        lasting[scenario] = better(ours, theirs, figure)
        bound = Bound(NAME, figure, search.tries, dict(lasting))
        table = msgspec.structs.replace(table, cells=[*table.cells, cells[-1]], bound=bound)
        gain = table.gain(scenario, NAME, figure)
        left = sum(lasting[scenario]) / len(seeds)
        say(f"{scenario}: hindsight is better by {gain.value:.1%} of {figure}, with other luck by {left:.1%}")
    return table


def episode(make: MakeEnv, seed: int) -> hindsight.Episode:
    """The environment's episode of this seed, without the environment."""
    env = make()
    try:
        env.reset(seed=seed)
        bare = env.unwrapped
        assert isinstance(bare, RoutingEnv) and bare.scenario is not None and bare.settings.calibration is not None
        drawn, settings = bare.scenario, bare.settings
        plan = tuple(drawn.traffic.planned(settings.requests))
        return hindsight.Episode(plan, drawn.config, bare.settings.calibration, drawn.options)
    finally:
        env.close()


@dataclass(frozen=True, slots=True)
class Sought:
    """What hindsight found in one episode, and what it and the heuristic come to with other luck."""

    seed: int
    run: Simulation
    elsewhere: Sequence[tuple[Simulation, Simulation]]
    """By luck: (heuristic, found)."""

    def elsewhere_mean(self, side: int, figure: str, slo: Slo) -> float:
        """The mean of a figure over all lucks, of the heuristic (0) or of what was found (1)."""
        values: list[float] = [getattr(figures_of(pair[side], self.seed, slo), figure) for pair in self.elsewhere]
        return sum(values) / len(values)


def figures_of(made: Simulation, seed: int, slo: Slo) -> Figures:
    """Of a run."""
    results = made.run.results
    return figures(Episode(seed, -hindsight.cost(results), len(results), results), slo)


def sought(asked: tuple[int, hindsight.Episode], search: Search) -> Sought:
    """The search in one episode. asked: its seed, and it."""
    seed, each = asked
    found = hindsight.search(each, search.tries, hindsight.GOALS[search.goal])
    return Sought(seed, found.best, hindsight.elsewhere(each, found, LUCKS))


def _found(make: MakeEnv, seeds: Sequence[int], search: Search) -> Sequence[Sought]:
    episodes = [(seed, episode(make, seed)) for seed in seeds]
    look = partial(sought, search=search)
    if search.jobs == 1:
        return [look(each) for each in episodes]
    # Not forked: this process has threads.
    with ProcessPoolExecutor(search.jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(look, episodes))
