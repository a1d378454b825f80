"""Oracle: what hindsight would have won over the heuristic in the episodes of a comparison."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import msgspec

from agents.comparison import Bound, Cell, Figures, Table, figures
from agents.trial import Episode, MakeEnv
from envs.routing import RoutingEnv
from streamserve.errors import ConfigError
from streamserve.simulation import hindsight
from streamserve.types import Slo

NAME = "hindsight"
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
    bound = Bound(NAME, FIGURES[search.goal], search.tries)
    cells = []
    for scenario, make in makers.items():
        seeds = table.cell(scenario, table.rival).seeds
        found = [figures_of(each, seed, slo) for each, seed in zip(_found(make, seeds, search), seeds, strict=True)]
        cells.append(Cell(scenario, NAME, seeds, found))
        made = msgspec.structs.replace(table, cells=[*table.cells, *cells], bound=bound)
        gain = made.gain(scenario, NAME, bound.figure)
        say(f"{scenario}: hindsight is better by {gain.value:.1%} [{gain.low:.1%}, {gain.high:.1%}] of {bound.figure}")
    return msgspec.structs.replace(table, cells=[*table.cells, *cells], bound=bound)


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


def figures_of(found: hindsight.Found, seed: int, slo: Slo) -> Figures:
    """Of the best run."""
    results = found.best.run.results
    return figures(Episode(seed, -hindsight.cost(results), len(results), results), slo)


def _found(make: MakeEnv, seeds: Sequence[int], search: Search) -> Sequence[hindsight.Found]:
    episodes = [episode(make, seed) for seed in seeds]
    look = partial(hindsight.search, tries=search.tries, goal=hindsight.GOALS[search.goal])
    if search.jobs == 1:
        return [look(each) for each in episodes]
    # Not forked: this process has threads.
    with ProcessPoolExecutor(search.jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(look, episodes))
