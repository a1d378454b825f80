"""Trained policies against the heuristic on live lanes: the same requests under each, in turn, block after block.

A block is one plan under every system, over the same lanes, whose prefix caches and drafters' memories are emptied
before each run. Every other block has the systems in opposite order (heuristic, policy, policy, heuristic), so that a
machine that becomes slower or faster favours none. A policy is served as `streamserve serve` does, guard and all.
Runs lie in the output folder; started again with the same settings, it goes on where it stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

from streamserve.bench import report, rig, systems
from streamserve.bench.planner import Cell, Mix, Planner
from streamserve.bench.ranking import MAX_GAP_S, Outcome
from streamserve.bench.routing import Bench, Serving
from streamserve.config import Config
from streamserve.errors import ConfigError
from streamserve.flowguard import routers
from streamserve.policy import store
from streamserve.types import Slo
from streamserve.workload import prompts

HEURISTIC = "flowguard"
SLOWED = 0.5
"""Of a lane, what is left of it beside another process on its core."""
UNCLAIMED = ("out", "repeats")
"""Settings that may change from one start to the next; more blocks can be added."""
Progress = Callable[[int, int, str], None]
"""Told of runs done, runs in all, and the last one."""


class Scene(NamedTuple):
    """What happens in a run."""

    arrivals: str
    slow: bool = False
    """Whether the last lane has half of its core."""


SCENES: Mapping[str, Scene] = {
    "steady": Scene("poisson"),
    "bursts": Scene("gamma:5"),
    "slow lane": Scene("poisson", slow=True),
    "slow lane in bursts": Scene("gamma:5", slow=True),
}


@dataclass(frozen=True)
class Contrast:
    """What is compared; names as in `streamserve.bench.routing`, whose plans and runs these are."""

    prompts: Path
    out: Path
    policies: Mapping[str, str]
    """Title -> folder, or the name of a shipped one."""
    config: Config
    scenes: Sequence[str] = ()
    """Names; none = all."""
    baselines: Sequence[str] = ()
    """Other systems, as in `streamserve.bench.systems`."""
    loads: Sequence[float] = (0.8,)
    """Shares of the capacity that is left with a slow lane, where one is."""
    repeats: int = 8
    """Blocks of every scenario."""
    requests: int = 64
    capacity: float | None = None
    capacity_requests: int = 32
    length_scale: float = 1.0
    workloads: Sequence[str] = ()
    seed: int = 0
    slo_ttft: float = 3.0
    slo_tpot: float = 0.1
    order: str = "fcfs"

    @property
    def systems(self) -> dict[str, str]:
        """Title -> system; the heuristic comes first."""
        made = {HEURISTIC: HEURISTIC}
        made |= {title: f"{HEURISTIC}{systems.POLICY}{source}" for title, source in self.policies.items()}
        return made | {text: text for text in self.baselines}

    @property
    def scenarios(self) -> dict[str, tuple[Scene, float]]:
        """Title -> scene and load. Raises `ConfigError`."""
        if missing := [name for name in self.scenes if name not in SCENES]:
            raise ConfigError(f"no scenario {', '.join(missing)} on live lanes; known: {', '.join(SCENES)}")
        names = self.scenes or list(SCENES)
        return {f"{name}, {load:g}": (SCENES[name], load) for load, name in product(self.loads, names)}


class Block(NamedTuple):
    """One plan under every system."""

    scenario: str
    number: int
    runs: Mapping[str, Outcome]
    """By the system's title."""

    @property
    def steady(self) -> bool:
        """Whether the machine never paused."""
        return all(each.machine_gap_s <= MAX_GAP_S for each in self.runs.values())


def check(given: Contrast) -> None:
    """Find mistakes before lanes are started. Raises `ConfigError` and `PolicyError`."""
    if min(given.loads, default=0.0) <= 0:
        raise ConfigError("--loads must be numbers above 0")
    assert given.scenarios, "names and loads are checked"
    if given.repeats < 2 or given.requests < 1:
        raise ConfigError("--repeats must be at least 2, --requests at least 1")
    for text in given.systems.values():
        system = systems.parse(text, given.order, live=True)
        routers.build(system.router, given.config.stream_pairs()[:1], given.config.flowguard)
        if system.policy is not None:
            store.load(store.find(system.policy))
    prompts.load_folder(given.prompts, given.workloads)


async def measure(given: Contrast, told: Progress) -> list[Block]:
    """All blocks, those of an earlier start read from where they lie; no lane is started where none is missing.

    Raises `ConfigError`, `PolicyError`, and what bringing up lanes raises.
    """
    check(given)
    report.claim(given.out, _claimed(given))
    every = list(_runs(given))
    done = {path: found for _, _, _, path in every if (found := report.read(path, Outcome)) is not None}
    if len(done) < len(every):
        await _serve(given, every, done, told)
    blocks: dict[tuple[str, int], dict[str, Outcome]] = {}
    for scenario, number, title, path in every:
        blocks.setdefault((scenario, number), {})[title] = done[path]
    return [Block(scenario, number, runs) for (scenario, number), runs in blocks.items()]


def order(titles: Sequence[str], number: int) -> list[str]:
    """Of the systems in a block: as they are, in every other block in reverse."""
    return list(titles) if number % 2 == 0 else list(reversed(titles))


Run = tuple[str, int, str, Path]
"""Scenario, block, system's title, and where its result lies."""


def _runs(given: Contrast) -> list[Run]:
    """In the order in which they are made: a round of all scenarios is complete before the next begins."""
    return [
        (scenario, number, title, _path(given, scenario, number, title))
        for number in range(given.repeats)
        for scenario in given.scenarios
        for title in order(list(given.systems), number)
    ]


def _path(given: Contrast, scenario: str, number: int, title: str) -> Path:
    return given.out / "runs" / f"{report.slug(scenario)}-{number}-{report.slug(title)}.json"


async def _serve(given: Contrast, every: Sequence[Run], done: dict[Path, Outcome], told: Progress) -> None:
    sets = prompts.load_folder(given.prompts, given.workloads)
    names = given.systems
    how = Serving(tuple(names.values()), given.out, given.order, False, (), given.capacity, given.capacity_requests)
    mix = Mix(given.seed, given.length_scale, Slo(given.slo_ttft, given.slo_tpot))
    told(len(done), len(every), "lanes start")
    async with rig.live({systems.LANES: given.config}, lambda _lane, _stage: None) as ready:
        planner = Planner(sets, lambda prompt: ready.tokenizer.encode(prompt.messages), mix)
        bench = Bench(ready, planner, how)
        await bench.warm_up()
        capacity = await bench.capacity()
        for scenario, number, title, path in every:
            if path in done:
                continue
            scene, load = given.scenarios[scenario]
            left, disturbances = _slowed(given.config) if scene.slow else (1.0, ())
            cell = Cell(scene.arrivals, load, number)
            sent = planner.cell(cell, left * capacity, given.requests)
            slowed = Bench(ready, planner, replace(how, disturb=disturbances))
            outcome = await slowed.outcome(cell, names[title], sent)
            report.write(path, outcome)
            done[path] = outcome
            told(len(done), len(every), f"{scenario}, block {number + 1}, {_line(title, outcome)}")


def _slowed(config: Config) -> tuple[float, tuple[str, ...]]:
    """What is left of the lanes' capacity when the last one is slowed, and how that is written."""
    count = len(config.lanes)
    return (count - 1 + SLOWED) / count, (f"slow:{count - 1}",)


def _line(title: str, outcome: Outcome) -> str:
    e2e = outcome.summary.e2e
    return f"{title}: " + ("every request failed" if e2e is None else f"E2E mean {e2e.mean_s:.2f} s")


def _claimed(given: Contrast) -> dict[str, object]:
    plain = {each.name: str(getattr(given, each.name)) for each in fields(given) if each.name not in UNCLAIMED}
    hashes = {title: store.card(store.find(source)).sha256 for title, source in given.policies.items()}
    return plain | {"config": given.config, "policies": hashes}
