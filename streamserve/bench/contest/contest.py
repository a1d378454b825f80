"""The contest itself: every system under every load, repeat by repeat, and on from where an earlier start stopped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from streamserve.bench.contest import synthetic
from streamserve.bench.contest.cell import Cell, Run, Sample, Watched
from streamserve.bench.contest.client import Ask
from streamserve.bench.contest.folder import Folder, Kept
from streamserve.bench.contest.plan import Dealer, Hand, order
from streamserve.bench.contest.server import Serving, cpu_s
from streamserve.bench.contest.settings import ALONE, BURST, LOADLESS, Point, Settings, given_capacities, points
from streamserve.bench.contest.standing import Note, Standing, Up
from streamserve.bench.contest.systems import System
from streamserve.bench.steady import Ticker
from streamserve.errors import SetupError

AGAIN = " again"
"""After a system's name: its second server, for the noise floor."""
CAPACITY_REQUESTS = 32
WARM_UP_REQUESTS = 8
WARM_UP_TOKENS = 32
WARM_UP_S = 600.0
TAIL_S = 10.0
"""About how long a run goes on after its last arrival; for the time left only."""

Driven = tuple[float, tuple[Sample, ...], tuple[Watched, ...]]


class Client(Protocol):
    """The load generator, as `client.Client` is one."""

    async def drive_watched(
        self, serving: Serving, requests: Sequence[Ask], rate: float, arrivals: str, seed: int, timeout_s: float
    ) -> Driven: ...


class Progress(Protocol):
    """Shows how far a contest is; all work is in seconds as expected beforehand."""

    def expect(self, runs: int, work_s: float) -> None: ...

    def done(self, text: str, work_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Stage:
    """What a contest needs around it."""

    up: Up
    client: Client
    available_gib: Callable[[], float]
    progress: Progress
    note: Note
    cpu_s: Callable[[Serving], float] = cpu_s
    ticker: Callable[[], Ticker] = Ticker


def entrants(systems: Sequence[System], again: System | None) -> dict[str, System]:
    """Label -> system. again: a second server of the first, for the noise floor."""
    labelled = {system.name: system for system in systems}
    return labelled if again is None else {**labelled, systems[0].name + AGAIN: again}


class Contest:
    """A contest between systems: `measure` it, then read what lies in the folder."""

    def __init__(
        self, settings: Settings, labels: Mapping[str, System], dealer: Dealer, folder: Folder, stage: Stage
    ) -> None:
        self._settings = settings
        self._labels = labels
        self._dealer = dealer
        self._folder = folder
        self._stage = stage

    async def measure(self) -> list[Kept]:
        """All runs, those of an earlier start read from where they lie, in the order of the plan.

        A run over which the machine paused is measured again when the contest is started again. Raises `SetupError`
        when a system does not start or serves nothing.
        """
        capacities = await self._capacities()
        pending = {
            repeat: [cell for _, cell in self._cells(repeat) if not self._lies(cell)]
            for repeat in range(self._settings.repeats)
        }
        runs = [cell for cells in pending.values() for cell in cells]
        self._stage.progress.expect(len(runs), sum(self._work_s(cell, capacities) for cell in runs))
        standing = self._standing(self._settings.apart)
        try:
            for repeat, cells in pending.items():
                if not self._settings.keep:
                    await standing.fall()
                await self._repeat(repeat, cells, capacities, standing)
        finally:
            await standing.fall()
        return self.kept()

    def kept(self) -> list[Kept]:
        """The runs that lie in the folder, in the order of the plan."""
        cells = [cell for repeat in range(self._settings.repeats) for _, cell in self._cells(repeat)]
        return [kept for kept in map(self._folder.run, cells) if kept is not None]

    def _cells(self, repeat: int) -> list[tuple[Point, Cell]]:
        return [
            (point, Cell(label, point.workload, point.arrivals, point.load, repeat))
            for place, point in enumerate(points(self._settings))
            for label in order(list(self._labels), repeat, place)
        ]

    def _lies(self, cell: Cell) -> bool:
        kept = self._folder.run(cell)
        return kept is not None and kept.sound

    def _standing(self, apart: bool) -> Standing:
        stage = self._stage
        return Standing(self._labels, stage.up, self._warm_up, stage.available_gib, stage.note, apart=apart)

    async def _repeat(
        self, repeat: int, cells: Sequence[Cell], capacities: Mapping[str, float], standing: Standing
    ) -> None:
        if not cells:
            return
        hands = self._dealer.repeat(repeat)
        await standing.stand([label for label in self._labels if any(cell.system == label for cell in cells)])
        for point, cell in self._cells(repeat):
            if cell not in cells:
                continue
            async with standing.serving(cell.system) as serving:
                kept = await self._run(cell, hands[point], capacities, serving, standing.others(cell.system))
            if standing.apart:
                # A server that started for this run alone has seen nothing, whatever was dealt before.
                kept = replace(kept, seen=0, apart=True)
            self._folder.keep(kept)
            self._stage.progress.done(_line(kept), self._work_s(cell, capacities))

    async def _run(
        self,
        cell: Cell,
        hand: Hand,
        capacities: Mapping[str, float],
        serving: Serving,
        others: Sequence[Serving],
    ) -> Kept:
        rate = self._rate(cell, capacities)
        # The same arrivals for every system, others in every repeat.
        seed = self._settings.seed + cell.repeat
        timeout_s = len(hand.asks) / rate + self._settings.timeout_s
        before_s = sum(map(self._stage.cpu_s, others))
        async with self._stage.ticker() as watch:
            if cell.arrivals == ALONE:
                driven = await self._one_at_a_time(serving, hand.asks, seed)
            else:
                driven = await self._stage.client.drive_watched(
                    serving, hand.asks, rate, cell.arrivals, seed, timeout_s
                )
        duration_s, samples, watched = driven
        idle_cores = (sum(map(self._stage.cpu_s, others)) - before_s) / duration_s
        return Kept(Run(cell, rate, duration_s, samples, watched), watch.gaps.machine_s, idle_cores, hand.seen)

    async def _one_at_a_time(self, serving: Serving, asks: Sequence[Ask], seed: int) -> Driven:
        total_s = 0.0
        samples: list[Sample] = []
        watched: list[Watched] = []
        for ask in asks:
            duration_s, made, seen = await self._stage.client.drive_watched(
                serving, [ask], 1.0, BURST, seed, self._settings.timeout_s
            )
            samples += [replace(each, begun_s=total_s + each.begun_s) for each in made]
            watched += [replace(each, at_s=total_s + each.at_s) for each in seen]
            total_s += duration_s
        return total_s, tuple(samples), tuple(watched)

    async def _warm_up(self, serving: Serving) -> None:
        sets = synthetic.sets(self._settings.seed + 1, WARM_UP_REQUESTS // 2).values()
        prompts = [each.messages[-1][1] for few in sets for each in few]
        asks = [Ask(prompt, WARM_UP_TOKENS) for prompt in prompts]
        _, samples, _ = await self._stage.client.drive_watched(serving, asks, 1.0, BURST, 0, WARM_UP_S)
        errors = [sample.error for sample in samples if sample.error]
        if len(errors) == len(samples):
            raise SetupError(f"{serving.system.name} answers nothing ({errors[0]}): see its log, or leave it out")

    def _rate(self, cell: Cell, capacities: Mapping[str, float]) -> float:
        return self._settings.rate or cell.load * capacities[cell.workload]

    def _work_s(self, cell: Cell, capacities: Mapping[str, float]) -> float:
        return self._settings.requests / self._rate(cell, capacities) + TAIL_S

    async def _capacities(self) -> dict[str, float]:
        """Requests per second of every workload when all come at once, on the first system.

        Its server is stopped afterwards: the runs find it as little prepared as the others.
        """
        found = self._folder.capacities() | given_capacities(self._settings)
        missing = [each for each in self._settings.workloads if each not in found]
        if not missing:
            return found
        if self._settings.rate is not None or set(self._settings.arrivals) <= set(LOADLESS):
            # Loads are not shares of anything; the time left is all that it is for.
            return found | dict.fromkeys(missing, self._settings.rate or 1.0)
        first = next(iter(self._labels))
        standing = self._standing(apart=True)
        async with standing.serving(first) as serving:
            for workload in missing:
                hand = self._dealer.capacity(workload, CAPACITY_REQUESTS)
                duration_s, samples, _ = await self._stage.client.drive_watched(
                    serving, hand.asks, 1.0, BURST, self._settings.seed, self._settings.timeout_s
                )
                served = sum(sample.error is None for sample in samples)
                if not served:
                    raise SetupError(f"{first} served nothing of {workload}: see its log, or give --capacity")
                found[workload] = served / duration_s
                self._stage.note(f"capacity of {first}, {workload}: {found[workload]:.3f} requests/s")
                self._folder.keep_capacities(found)
        return found


def _line(kept: Kept) -> str:
    run = kept.run
    cell = run.cell
    e2e_s = [sample.e2e_s for sample in run.samples if sample.error is None and sample.e2e_s is not None]
    where = f"repeat {cell.repeat + 1}, {Point(cell.workload, cell.arrivals, cell.load)}, {cell.system}"
    lost = len(run.samples) - len(e2e_s)
    told = f"E2E mean {sum(e2e_s) / len(e2e_s):.2f} s" if e2e_s else "nothing served"
    paused = "" if kept.sound else f"; left out, the machine paused for {kept.gap_s:.1f} s"
    return f"{where}: {told}{f', {lost} lost' if lost else ''}{paused}"
