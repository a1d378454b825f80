"""`streamserve simulate`: systems over simulated lanes, under the same arrivals and with the same luck.

Capacity comes first, as in `streamserve.bench.routing`: how many requests a second the lanes finish when all come at
once, under the first system. Loads are shares of it.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import msgspec
import numpy as np

from streamserve.bench import report, simulated, systems
from streamserve.bench.planner import Cell
from streamserve.bench.simulated import Simulated
from streamserve.bench.workloads import Plans, TracePlans, Workload
from streamserve.config import Config
from streamserve.errors import ConfigError
from streamserve.flowguard import routers
from streamserve.lanes.sim import calibration as calibrations
from streamserve.lanes.sim.calibration import Calibration
from streamserve.protocols import Router
from streamserve.signals import Signals
from streamserve.simulation import hindsight, plant
from streamserve.simulation.options import SimOptions
from streamserve.simulation.run import Simulation, simulate
from streamserve.types import NO_SLO, Decision, LaneId, Request, Result
from streamserve.workload import arrivals
from streamserve.workload.openloop import summarise
from streamserve.workload.plan import Encode, Plan

RECORDED = "as recorded"
REQUESTS_PER_LANE = 30
FEWEST = 200
BURST_PER_LANE = 16


@dataclass(frozen=True, slots=True)
class Study:
    """What is simulated."""

    config: Config
    calibration: Calibration
    options: SimOptions
    workload: Workload
    routers: Sequence[str] = ("flowguard",)
    """Systems, as in `streamserve.bench.systems`; the router `hindsight:TRIES[:GOAL]` is a search's best run."""
    order: str = "fcfs"
    arrivals: Sequence[str] = ("poisson",)
    loads: Sequence[float] = ()
    rate: float | None = None
    """Requests per second instead of loads."""
    requests: int | None = None
    seeds: int = 1
    announce_slo: bool = False
    """Whether requests carry their SLO; they are judged by it in any case."""


class Timed:
    """A router that notes the CPU time of its decisions: the clock would count what else the machine does."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.took_s: list[float] = []

    def route(self, request: Request, signals: Signals) -> Decision:
        begun_s = time.thread_time()
        decision = self._router.route(request, signals)
        self.took_s.append(time.thread_time() - begun_s)
        return decision

    def learn(self, result: Result) -> None:
        self._router.learn(result)


def found(name: str | None, config: Config) -> Calibration:
    """The calibration of that name; without one, the only one that ships for the configured model.

    Raises `ConfigError`.
    """
    if name is not None:
        return calibrations.load(name)
    shipped = {each: calibrations.load(each) for each in calibrations.names()}
    fitting = [each for each, calibration in shipped.items() if calibration.origin.model == config.model]
    if len(fitting) != 1:
        known = ", ".join(fitting or shipped) or "none yet"
        raise ConfigError(
            f"name a calibration of model {config.model!r} with --calibration ({known}), or measure one with "
            "streamserve calibrate"
        )
    return shipped[fitting[0]]


def replicated(config: Config, lanes: int) -> Config:
    """The configuration with so many lanes: its own, over and over, as are its pairs. Raises `ConfigError`."""
    own = len(config.lanes)
    if lanes < 1:
        raise ConfigError(f"--lanes must be at least 1, got {lanes}")
    copies = [msgspec.structs.replace(config.lanes[i % own], id=LaneId(f"lane-{i}")) for i in range(lanes)]
    pairs = config.pairs
    if not isinstance(pairs, str):
        if lanes % own:
            raise ConfigError(
                f"--lanes must be a multiple of {own}, the lanes that the listed pairs are of; got {lanes}"
            )
        place = {lane.id: i for i, lane in enumerate(config.lanes)}
        pairs = [
            (copies[first + place[prefill]].id, copies[first + place[decode]].id)
            for first in range(0, lanes, own)
            for prefill, decode in pairs
        ]
    return msgspec.structs.replace(config, lanes=copies, pairs=pairs, share_cores=True)


def numbers(option: str, spec: str) -> tuple[float, ...]:
    """Numbers with commas between them. Raises `ConfigError`."""
    try:
        return tuple(float(each) for each in spec.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {spec!r}: write numbers with commas between them, e.g. 1,0.5") from error


def speeds(spec: str, config: Config) -> dict[LaneId, float]:
    """Speeds written 1,0.5,...: the lanes' in their order, over and over. Raises `ConfigError`."""
    values = numbers("--speeds", spec)
    return {lane.id: values[i % len(values)] for i, lane in enumerate(config.lanes)}


def one(study: Study, system: str, plan: Plan, seed: int) -> tuple[Simulation, float, list[float]]:
    """One run, its CPU time, and the times of its decisions."""
    config = systems.parse(system, study.order).over(study.config)
    options = replace(study.options, seed=seed)
    if (bound := hindsight.parse(config.router)) is not None:
        return _in_hindsight(study, config, options, plan, bound)
    router = Timed(routers.build(config.router, config.stream_pairs(), config.flowguard))
    gc.collect()
    begun_s = time.process_time()
    made = simulate(plan, config, study.calibration, options, router, study.announce_slo)
    return made, time.process_time() - begun_s, router.took_s


def _in_hindsight(
    study: Study, config: Config, options: SimOptions, plan: Plan, bound: tuple[int, hindsight.Goal]
) -> tuple[Simulation, float, list[float]]:
    """The best run that a search finds, and the CPU time of all its runs."""
    begun_s = time.process_time()
    sent = plan if study.announce_slo else tuple(replace(each, slo=NO_SLO) for each in plan)
    found = hindsight.search(hindsight.Episode(sent, config, study.calibration, options), *bound)
    # Judged by the SLO even where it was not announced.
    made = replace(found.best, run=replace(found.best.run, plan=plan))
    return made, time.process_time() - begun_s, [0.0]


def run(study: Study, plans: Plans, note: Callable[[str], None]) -> list[Simulated]:
    """Every system in every cell. Raises `ConfigError`."""
    check(study)
    n = study.requests or max(FEWEST, REQUESTS_PER_LANE * len(study.config.lanes))
    recorded = isinstance(plans, TracePlans) and study.rate is None and not study.loads
    capacity = 1.0 if recorded else study.rate or _capacity(study, plans, note)
    loads = (1.0,) if recorded or study.rate is not None else study.loads or (0.5, 0.8, 0.95)
    processes = (RECORDED,) if isinstance(plans, TracePlans) else study.arrivals
    made = []
    for process, load, seed in product(processes, loads, range(study.seeds)):
        cell = Cell(process, load, seed)
        plan = plans.recorded(n) if recorded and isinstance(plans, TracePlans) else plans.cell(cell, capacity, n)
        for system in study.routers:
            simulation, cpu_s, took_s = one(study, system, plan, study.options.seed + seed)
            made.append(_outcome(cell, system, simulation, cpu_s, took_s))
            note(f"{process} {load:g}, {system}, seed {seed}: {cpu_s:.1f} s")
    return made


def check(study: Study) -> None:
    """Find mistakes before anything runs. Raises `ConfigError`."""
    plant.check(study.config, study.calibration, study.options)
    for text in study.routers:
        system = systems.parse(text, study.order)
        if hindsight.parse(system.router) is not None:
            continue
        routers.build(system.router, study.config.stream_pairs()[:1], study.config.flowguard)
    for text in study.arrivals:
        process = arrivals.parse(text)
        if process.path is not None:
            arrivals.read_trace(process.path)
    if study.loads and min(study.loads) <= 0:
        raise ConfigError(f"--loads must be above 0, got {min(study.loads):g}")
    if study.rate is not None and (study.loads or not study.rate > 0):
        raise ConfigError("--rate must be above 0, and --loads says the same in another way: give one of them")
    if min(study.seeds, study.requests or 1) < 1:
        raise ConfigError("--seeds and --requests must be at least 1")


def failures(specs: Sequence[str]) -> tuple[tuple[float, LaneId], ...]:
    """Failures written LANE@INSTANT_S. Raises `ConfigError`."""
    made = []
    for spec in specs:
        lane, _, at_s = spec.rpartition("@")
        try:
            made.append((float(at_s), LaneId(lane)))
        except ValueError as error:
            raise ConfigError(f"--fail {spec!r}: write LANE@SECONDS, e.g. lane-0@60") from error
    return tuple(made)


def encoder(model: str) -> Encode:
    """The model's own tokenizer; nothing of an engine is loaded. Raises `SetupError`."""
    from streamserve.lanes.vllm.model import resolve
    from streamserve.lanes.vllm.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer(str(resolve(model, print)))
    return lambda prompt: tokenizer.encode(prompt.messages)


def keep(made: Sequence[Simulated], study: Study, folder: Path) -> bool:
    """Write all runs as JSON and plots; False where matplotlib is missing, so that there are no plots."""
    settings = {
        "calibration": study.calibration.origin,
        "config": study.config,
        "options": study.options,
        "workload": {name: str(value) for name, value in asdict(study.workload).items()},
    }
    kept = {"machine": report.machine(), "settings": {**settings, "order": study.order}, "runs": made}
    report.write(folder / "simulate.json", kept)
    (folder / "report.md").write_text(simulated.text(made))
    return simulated.plots(made, folder)


def _capacity(study: Study, plans: Plans, note: Callable[[str], None]) -> float:
    burst = plans.burst(max(32, BURST_PER_LANE * len(study.config.lanes)), 1)
    made, _, _ = one(study, study.routers[0], burst, study.options.seed)
    capacity = summarise(made.run).requests_per_s
    note(f"capacity {capacity:.3f} requests/s")
    return capacity


def _outcome(cell: Cell, system: str, made: Simulation, cpu_s: float, took_s: Sequence[float]) -> Simulated:
    median_s, p99_s = np.percentile(took_s, [50, 99])
    plan = made.run.plan
    return Simulated(
        cell.arrivals,
        cell.load,
        len(plan) / max(plan[-1].arrival_s, 1e-9),
        system,
        cell.repeat,
        summarise(made.run),
        cpu_s,
        (1e6 * float(median_s), 1e6 * float(p99_s)),
        made.restarts,
        tuple(result.e2e_s for result in made.run.results if result.finish.by_itself),
    )
