"""`streamserve validate`: the same plans over live lanes and over simulated ones, side by side.

Live runs come first, several of every plan and in turn with all others, so that their differences tell the noise of
the machine. Simulated requests have the drafts that the live answers give: what is answered is greedy, so that it
depends on the system no more than its length does. Everything lies in the output folder, one file per run; started
again with the same settings, it goes on where it stopped, and simulates anew: another calibration needs no live run.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import uvloop

from streamserve.bench import fidelity, report, rig, routing, systems
from streamserve.bench.calibrate import new_drafter
from streamserve.bench.fidelity import Fidelity, Runs
from streamserve.bench.planner import Cell, Mix, Planner
from streamserve.bench.ranking import MAX_GAP_S, Outcome, served_e2e_s
from streamserve.bench.routing import Bench, Serving
from streamserve.config import Config
from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import Calibration
from streamserve.lanes.sim.replay import replayed
from streamserve.lanes.sim.work import Found
from streamserve.simulation.options import SimOptions
from streamserve.simulation.plant import check
from streamserve.simulation.run import simulate
from streamserve.specustream.playback import Output
from streamserve.workload import openloop, prompts
from streamserve.workload.plan import Plan

REPLAYED, DRAWN = "replayed", "drawn"
"""Where simulated requests have their drafts from: what live ones answered, or what was measured of the workload."""
UNCLAIMED = ("out", "minutes", "sim_seeds", "drafts")
"""Settings that may change from one start to the next."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What is compared; names as in `streamserve.bench.routing`, whose plans and live runs these are."""

    prompts: Path
    out: Path
    workloads: Sequence[str] = ()
    routers: Sequence[str] = ("flowguard",)
    order: str = "fcfs"
    arrivals: Sequence[str] = ("poisson",)
    loads: Sequence[float] = (0.3, 0.6, 0.9)
    repeats: int = 2
    """Live runs of every plan."""
    sim_seeds: int = 5
    minutes: float = 60.0
    requests: int | None = None
    capacity: float | None = None
    capacity_requests: int = 32
    length_scale: float = 1.0
    multi_turn: bool = False
    seed: int = 0
    drafts: str = REPLAYED

    @property
    def mix(self) -> Mix:
        return Mix(self.seed, self.length_scale, multi_turn=self.multi_turn)

    @property
    def serving(self) -> Serving:
        order, most = self.order, self.capacity_requests
        return Serving(self.routers, self.out, order, capacity=self.capacity, capacity_requests=most)

    def rounds(self) -> Iterator[tuple[Cell, list[str]]]:
        """The live runs."""
        return routing.rounds(self.routers, self.arrivals, self.loads, self.repeats, self.seed)


def run(
    given: Validation, config: Config, calibration: Calibration, note: Callable[[str], None]
) -> tuple[list[Fidelity], fidelity.Order]:
    """Live runs that are still missing, all simulated ones, and the comparison; written to the folder.

    Raises `ConfigError`, and what bringing up lanes raises.
    """
    check(config, calibration, SimOptions())
    routing.check(given.serving, given.arrivals, given.loads)
    for text in given.routers:
        systems.parse(text, given.order)
    # A folder that is claimed for prompts which are not there would refuse the right ones.
    prompts.load_folder(given.prompts, given.workloads)
    settings = {each.name: str(getattr(given, each.name)) for each in fields(given) if each.name not in UNCLAIMED}
    report.claim(given.out, settings | {"config": config})
    if given.drafts not in (REPLAYED, DRAWN):
        raise ConfigError(f"--drafts must be {REPLAYED} or {DRAWN}, got {given.drafts!r}")
    if any(report.read(path, Outcome) is None for path in _live_paths(given)):
        uvloop.run(measure(given, config))
    measured = [each for path in _live_paths(given) if (each := report.read(path, Outcome)) is not None]
    sound = [each for each in measured if each.machine_gap_s <= MAX_GAP_S]
    note(f"{len(measured) - len(sound)} of {len(measured)} live runs are left out: the machine paused")
    live = _grouped(sound)
    simulated = imitate(given, config, calibration, live, note)
    compared, ranked = fidelity.compare(live, simulated), fidelity.order(live, simulated)
    report.write(given.out / "fidelity.json", {"calibration": calibration.origin, "cells": compared, "order": ranked})
    (given.out / "report.md").write_text(fidelity.text(compared, ranked))
    plots(live, simulated, given.out)
    return compared, ranked


async def measure(given: Validation, config: Config) -> None:
    """The live runs that do not lie in the folder yet, and the plans of all."""
    sets = prompts.load_folder(given.prompts, given.workloads)
    async with rig.live({systems.LANES: config}, lambda lane, stage: print(f"{lane}: {stage}", flush=True)) as ready:
        planner = Planner(sets, lambda prompt: ready.tokenizer.encode(prompt.messages), given.mix)
        bench = Bench(ready, planner, given.serving)
        await bench.warm_up()
        capacity = await bench.capacity()
        every = list(given.rounds())
        runs = sum(len(order) for _, order in every)
        rates = [load * capacity for load in given.loads]
        n = given.requests or routing.requests_within(given.minutes * 60, rates, runs // len(rates))
        progress = report.Progress(runs)
        for cell, order in every:
            plan = _plan(given, cell, lambda once: planner.cell(once, capacity, n))
            for system in order:
                path = cell.path(given.out / "live", system)
                measured = report.read(path, Outcome) is None
                if measured:
                    report.write(path, await bench.outcome(cell, system, plan))
                progress.step(f"{cell.arrivals} {cell.load:g} repeat {cell.repeat + 1}, {system}", measured)


def imitate(
    given: Validation, config: Config, calibration: Calibration, live: Runs, note: Callable[[str], None]
) -> dict[fidelity.Key, list[Outcome]]:
    """The same plans over simulated lanes, each with several seeds."""
    outcomes = []
    for process, load in product(given.arrivals, given.loads):
        plan = report.read(_plan_path(given, process, load), Plan)
        if plan is None:
            continue
        drafts = _drafts(
            given, config, calibration, plan, [live.get((process, load, each), ()) for each in given.routers]
        )
        for system, seed in product(given.routers, range(given.sim_seeds)):
            over = systems.parse(system, given.order).over(config)
            options = SimOptions(seed=seed, drafts=drafts)
            made = simulate(plan, over, calibration, options).run
            cell = Cell(process, load, seed)
            outcome = Outcome(process, load, system, seed, openloop.summarise(made), 0.0, 0.0, routing.served(made))
            report.write(cell.path(given.out / "simulated", system), outcome)
            outcomes.append(outcome)
        note(f"simulated {process} {load:g}, drafts {'replayed' if drafts else 'drawn'}")
    return _grouped(outcomes)


def _drafts(
    given: Validation, config: Config, calibration: Calibration, plan: Plan, live: Sequence[Sequence[Outcome]]
) -> list[list[Found | None]]:
    """Of every request, by what the first live run that served them all answered; none where there is no such run."""
    whole = (run.outputs for runs in live for run in runs if len(run.outputs) == len(plan) and all(run.outputs))
    outputs = next(whole, ())
    if given.drafts == DRAWN or not outputs or config.speculation.method == "none":
        return []
    texts = [Output(each.workload, each.prompt_token_ids, tokens) for each, tokens in zip(plan, outputs, strict=True)]
    return replayed(texts, [new_drafter(config.speculation) for _ in config.lanes], calibration)


def plots(live: Runs, simulated: Runs, folder: Path) -> bool:
    """CDFs of E2E latency, live beside simulated; False where matplotlib is missing."""
    drawn = True
    for key in live:
        arrivals, load, system = key
        curves = {
            name: report.cumulative(served_e2e_s(runs[key]))
            for name, runs in (("live", live), ("simulated", simulated))
            if key in runs
        }
        path = folder / "plots" / f"e2e-{report.slug(arrivals)}-{load:g}-{report.slug(system)}.png"
        drawn &= report.plot(path, f"{arrivals}, load {load:g}, {system}", ("E2E, s", "share"), curves)
    return drawn


def _plan(given: Validation, cell: Cell, make: Callable[[Cell], Plan]) -> Plan:
    """The cell's plan, the same in every repeat; it is kept, so that simulating needs no tokenizer."""
    path = _plan_path(given, cell.arrivals, cell.load)
    known: Plan | None = report.read(path, Plan)
    if known is None:
        known = make(Cell(cell.arrivals, cell.load, 0))
        report.write(path, known)
    return known


def _plan_path(given: Validation, arrivals: str, load: float) -> Path:
    return given.out / "plans" / f"{report.slug(arrivals)}-{load:g}.json"


def _live_paths(given: Validation) -> list[Path]:
    return [cell.path(given.out / "live", system) for cell, order in given.rounds() for system in order]


def _grouped(outcomes: Sequence[Outcome]) -> dict[fidelity.Key, list[Outcome]]:
    groups: dict[fidelity.Key, list[Outcome]] = defaultdict(list)
    for each in outcomes:
        groups[each.arrivals, each.load, each.system].append(each)
    return groups
