"""`python -m streamserve.bench.routing`: routers, and one plain engine, under the same open-loop arrivals.

Capacity comes first: how many requests of the mix a second the lanes finish when they get all of them at once, under
the first system. Loads are shares of it. In every repeat each system serves the same plan, in an order that changes,
over the same lanes, whose prefix caches are emptied before each run; ratios are taken within a repeat. Output lengths
are fixed, so every system makes the same tokens. Runs lie in `--out`, one JSON file each; started again with the same
settings, it goes on where it stopped.

Systems are written ROUTER, then +ORDER, +direct (no late binding) or +late (always), +own (no request is split), and
+policy=FOLDER (a trained policy on top); the first is compared to all others.
"""

import argparse
import random
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

import uvloop

from streamserve.bench import disturb, ranking, report, rig, systems
from streamserve.bench.disturb import Disturbance, disturbed
from streamserve.bench.planner import Cell, Mix, Planner
from streamserve.bench.ranking import Outcome, Served
from streamserve.bench.steady import steady
from streamserve.bench.systems import System
from streamserve.errors import ConfigError
from streamserve.lanes.vllm.plan import available_cores
from streamserve.policy import store
from streamserve.policy.switch import PolicySwitch
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.types import Slo
from streamserve.workload import arrivals, openloop, prompts
from streamserve.workload.plan import Plan

TAIL_S = 10.0
"""About how long a run goes on after its last arrival, with what is done between runs."""
FEWEST = 8
WARM_UP = 6


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves, and how; texts as the module describes them."""

    routers: Sequence[str]
    """The first one's capacity is what loads are shares of."""
    out: Path
    order: str = "fcfs"
    announce_slo: bool = False
    """Whether requests carry their SLO; without, they are only judged by it."""
    disturb: Sequence[str] = ()
    """What happens in every run."""
    capacity: float | None = None
    """Requests per second, instead of measuring it."""
    capacity_requests: int = 32


def requests_within(seconds: float, rates: Sequence[float], runs_per_rate: int) -> int:
    """How many requests each run may have so that all fit; `rates`: arrivals per second of each load."""
    sending_s = runs_per_rate * sum(1 / rate for rate in rates)
    return max(FEWEST, int((seconds - runs_per_rate * len(rates) * TAIL_S) / sending_s))


def rounds(
    names: Sequence[str], processes: Sequence[str], loads: Sequence[float], repeats: int, seed: int
) -> Iterator[tuple[Cell, list[str]]]:
    """Every cell with its order of systems; a repeat is complete before the next begins."""
    for repeat in range(repeats):
        for process, load in product(processes, loads):
            order = list(names)
            random.Random(f"{seed}/{repeat}/{process}/{load}").shuffle(order)
            yield Cell(process, load, repeat), order


def served(run: openloop.Run) -> tuple[Served, ...]:
    """Every request of a run, for the record."""
    made = []
    for each, result in zip(run.plan, run.results, strict=True):
        decision = result.decision
        prediction = decision.prediction if decision else None
        made.append(
            Served(
                each.workload,
                each.arrival_s,
                result.prompt_tokens,
                result.output_tokens,
                result.e2e_s,
                result.ttft_s,
                result.tpot_s,
                replace(result, slo=each.slo).slo_met,
                str(result.finish),
                decision.prefill if decision else None,
                decision.decode if decision else None,
                prediction.ttft_s if prediction else None,
                prediction.e2e_s if prediction else None,
            )
        )
    return tuple(made)


class Bench:
    """The rig, and what runs on it."""

    def __init__(self, ready: rig.Rig, planner: Planner, how: Serving) -> None:
        self._ready = ready
        self._planner = planner
        self._how = how
        self._systems = {text: systems.parse(text, how.order, live=True) for text in how.routers}
        self._systems[systems.PLAIN] = systems.PLAIN_ENGINE

    async def serve(
        self,
        system: System,
        sent: Plan,
        disturbances: Sequence[Disturbance] = (),
        switch: PolicySwitch | None = None,
    ) -> openloop.Run:
        """A plan on idle lanes with empty prefix caches. switch: the system's policy, new for this run."""
        lane_set = self._ready.sets[system.lane_set]
        await rig.idle(lane_set.lanes)
        await rig.forget_prefixes(lane_set.lanes)
        config = system.config(self._ready)

        def open_scheduler(on_result: openloop.OnResult) -> StreamScheduler:
            scheduler = lane_set.scheduler(on_result, config, switch)
            if switch is not None:
                switch.start(scheduler)
            return scheduler

        try:
            async with disturbed(list(lane_set.lanes.values()), disturbances):
                announce_slo = self._how.announce_slo
                run = await openloop.send(
                    sent, open_scheduler, rig.planned, announce_slo=announce_slo, keep_outputs=True
                )
            await rig.idle(lane_set.lanes)
        finally:
            if switch is not None:
                await switch.aclose()
        if switch is not None:
            await rig.forget_controls(lane_set.lanes)
        return run

    async def warm_up(self) -> None:
        """A few requests on every set of lanes, which count for nothing."""
        for system in {each.lane_set: each for each in self._systems.values()}.values():
            if system.lane_set in self._ready.sets:
                await self.serve(system, self._planner.burst(WARM_UP, 0))

    async def capacity(self) -> float:
        """Requests per second when all come at once, under the first system; kept for a resumed start.

        The tail, when the batch runs empty, is included: it is a little below what lanes can do for ever.
        """
        path = self._how.out / "capacity.json"
        known = self._how.capacity or report.read(path, float)
        if known is None:
            system = self._systems[self._how.routers[0]]
            run, _ = await steady(
                lambda: self.serve(system, self._planner.burst(self._how.capacity_requests, 1)), print
            )
            known = openloop.summarise(run).requests_per_s
            report.write(path, known)
        return float(known)

    async def outcome(self, cell: Cell, system: str, sent: Plan) -> Outcome:
        """One run."""
        disturbances = [disturb.parse(text) for text in self._how.disturb]
        made = self._systems[system]

        async def attempt() -> tuple[openloop.Run, PolicySwitch | None]:
            switch = made.switch(self._ready)
            return await self.serve(made, sent, disturbances, switch), switch

        (run, switch), gaps = await steady(attempt, print)
        return Outcome(
            cell.arrivals,
            cell.load,
            system,
            cell.repeat,
            openloop.summarise(run),
            gaps.machine_s,
            gaps.loop_s,
            served(run),
            None if switch is None else switch.report(),
            run.outputs,
        )


async def measure(bench: Bench, planner: Planner, options: Namespace) -> list[Outcome]:
    """All cells, those of an earlier start read from where they lie."""
    capacity = await bench.capacity()
    names = [*options.routers, *([systems.PLAIN] if options.baseline is not None else [])]
    every = list(rounds(names, options.arrivals, options.loads, options.repeats, options.seed))
    runs = sum(len(order) for _, order in every)
    rates = [load * capacity for load in options.loads]
    n = options.requests or requests_within(options.minutes * 60, rates, runs // len(rates))
    print(f"capacity {capacity:.3f} requests/s; {runs} runs of {n} requests", flush=True)
    kept = {key: str(value) for key, value in sorted(vars(options).items()) if key not in ("minutes", "out")}
    files = report.contents((*options.routers, *options.arrivals))
    report.claim(options.out, kept | {"capacity": capacity, "requests": n, "files": files})
    progress = report.Progress(runs)
    outcomes = []
    for cell, order in every:
        sent = planner.cell(cell, capacity, n)
        for system in order:
            path = cell.path(options.out, system)
            found = report.read(path, Outcome)
            outcome = found or await bench.outcome(cell, system, sent)
            if found is None:
                report.write(path, outcome)
            outcomes.append(outcome)
            progress.step(f"{cell.arrivals} {cell.load:g} repeat {cell.repeat + 1}, {_line(outcome)}", found is None)
    return outcomes


def _line(outcome: Outcome) -> str:
    e2e = outcome.summary.e2e
    if e2e is None:
        return f"{outcome.system}: every request failed"
    return f"{outcome.system}: E2E mean {e2e.mean_s:.2f} s, p99 {e2e.p99_s:.2f} s, {outcome.summary.failed} failed"


async def main(options: Namespace) -> None:
    how = serving(options)
    check(how, options.arrivals, options.loads)
    sets = prompts.load_folder(options.prompts, options.workloads)
    configs = systems.configs(options.lanes, len(available_cores()), options.baseline, options.set)
    async with rig.live(configs, lambda lane, stage: print(f"{lane}: {stage}", flush=True)) as ready:
        planner = Planner(sets, lambda prompt: ready.tokenizer.encode(prompt.messages), mix(options))
        bench = Bench(ready, planner, how)
        await bench.warm_up()
        outcomes = await measure(bench, planner, options)
    text = ranking.text(outcomes, options.routers[0])
    (options.out / "report.md").write_text(text)
    print(text)
    if not ranking.plots(outcomes, options.out):
        print("no plots: matplotlib is not installed")


def mix(options: Namespace) -> Mix:
    """The command line's way of drawing requests."""
    slo = Slo(options.slo_ttft, options.slo_tpot)
    return Mix(options.seed, options.length_scale, slo, options.multi_turn, options.turns, options.pause)


def serving(options: Namespace) -> Serving:
    """The command line's systems."""
    return Serving(**{each.name: getattr(options, each.name) for each in fields(Serving)})


def check(how: Serving, processes: Sequence[str], loads: Sequence[float]) -> None:
    """Find mistakes before lanes are started. Raises `ConfigError` and `PolicyError`."""
    for text in how.disturb:
        disturb.parse(text)
    for text in how.routers:
        system = systems.parse(text, how.order, live=True)
        if system.policy is not None:
            store.load(store.find(system.policy))
    for text in processes:
        process = arrivals.parse(text)
        if process.path is not None:
            arrivals.read_trace(process.path)
    if min(loads) <= 0:
        raise ConfigError(f"--loads must be above 0, got {min(loads):g}")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--prompts", type=Path, required=True, help="folder of JSONL prompt sets")
    add("--workloads", nargs="+", default=["alpaca", "gsm8k", "humaneval", "sum"])
    add("--out", type=Path, default=Path("bench-routing"))
    add("--routers", nargs="+", default=["flowguard", "least_loaded", "round_robin"], help="the systems, see above")
    add("--order", choices=systems.ORDERS, default="fcfs", help="of systems that name none")
    add("--arrivals", nargs="+", default=["poisson", "gamma:5"], help=arrivals.USAGE)
    add("--loads", nargs="+", type=float, default=[0.5, 0.8, 0.95], help="shares of the capacity")
    add("--repeats", type=int, default=5)
    add("--lanes", type=int, default=2, help="one core each")
    add("--baseline", type=int, metavar="DEPTH", help="compare one engine over all cores with this static depth, too")
    add("--minutes", type=float, default=60.0, help="for all runs; sets their number of requests")
    add("--requests", type=int, help="of each run, whatever time that takes")
    add("--capacity", type=float, help="requests per second, instead of measuring it")
    add("--capacity-requests", type=int, default=32)
    add("--length-scale", type=float, default=1.0, help="of the prompts' own output lengths")
    add("--multi-turn", action="store_true", help="conversations: the first workload opens, the others follow up")
    add("--turns", type=int, default=4)
    add("--pause", type=float, default=8.0, help="mean seconds between the turns of a conversation")
    add("--disturb", nargs="+", default=[], help=f"what happens in every run: {disturb.USAGE}")
    add("--slo-ttft", type=float, default=3.0, help="seconds")
    add("--slo-tpot", type=float, default=0.1, help="seconds")
    add("--announce-slo", action="store_true", help="requests carry their SLO; without, they are only judged by it")
    add("--seed", type=int, default=0)
    add("--set", action="append", default=[], help="override of every lane's configuration, key=value")
    return parser


if __name__ == "__main__":
    uvloop.run(main(arguments().parse_args()))
