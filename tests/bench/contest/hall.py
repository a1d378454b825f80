"""Servers and a load generator that are none: what a run brings is a formula of its system and its load."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from streamserve.bench.contest.cell import Cell, Run, Sample, Watched
from streamserve.bench.contest.client import Ask
from streamserve.bench.contest.contest import Contest, Stage, entrants
from streamserve.bench.contest.folder import Folder, Kept
from streamserve.bench.contest.plan import Dealer, Sets
from streamserve.bench.contest.process import Process
from streamserve.bench.contest.server import Serving
from streamserve.bench.contest.settings import Settings
from streamserve.bench.contest.systems import System
from streamserve.bench.steady import Gaps, Ticker
from streamserve.workload.prompts import Prompt


def prompt_set(name: str, n: int, max_tokens: int = 20) -> list[Prompt]:
    return [Prompt(f"{name}-{i}", name, (("user", f"{name} {i}"),), max_tokens) for i in range(n)]


def system(name: str) -> System:
    process = Process("one", ("true",), 1, "http://127.0.0.1:1/health")
    return System(
        name=name, title=f"the system {name}", url=f"http://{name}", tokenizer="tokenizer", processes=(process,)
    )


def sample(ttft_s: float, e2e_s: float, tokens: int = 11, error: str | None = None) -> Sample:
    gaps = ((e2e_s - ttft_s) / (tokens - 1),) * (tokens - 1)
    return Sample(0.0, 5, tokens, ttft_s, e2e_s, gaps, error)


def kept(label: str, repeat: int, samples: Sequence[Sample], gap_s: float = 0.0, **where: object) -> Kept:
    at = {"workload": "mix", "arrivals": "poisson", "load": 0.8, **where}
    cell = Cell(system=label, repeat=repeat, **at)  # type: ignore[arg-type]
    return Kept(Run(cell, 2.0, 10.0, tuple(samples)), gap_s, 0.01, 0)


def quick(factor: float, repeat: int, n: int = 4) -> list[Sample]:
    """Requests of a system that is `factor` times as slow as it could be, on a machine that slows down by repeats."""
    slow = factor * (1 + repeat)
    return [sample(0.1 * slow, (1 + i / n) * slow) for i in range(n)]


class Client:
    """Answers after `seconds[system name]`; notes what it was sent."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.sent: list[tuple[str, tuple[Ask, ...], float, str, int]] = []

    async def drive_watched(
        self, serving: Serving, requests: Sequence[Ask], rate: float, arrivals: str, seed: int, timeout_s: float
    ) -> tuple[float, tuple[Sample, ...], tuple[Watched, ...]]:
        name = serving.system.name
        self.sent.append((name, tuple(requests), rate, arrivals, seed))
        e2e_s = self.seconds.get(name, 1.0)
        watched = (Watched(0.5, {"lane-0": 2.0}, {"lane-0": 1}, {"lane-0": 0}),)
        return 10.0, tuple(sample(0.1, e2e_s, each.output_tokens) for each in requests), watched

    @property
    def runs(self) -> list[str]:
        """The systems in the order of their runs, warm-ups and measurements of capacity aside."""
        return [name for name, requests, rate, _, _ in self.sent if rate != 1.0]


class Steady(Ticker):
    """A machine that never pauses, or always for so long."""

    def __init__(self, gap_s: float = 0.0) -> None:
        super().__init__()
        self._gap_s = gap_s

    @property
    def gaps(self) -> Gaps:
        return Gaps(self._gap_s, self._gap_s)


class Hall:
    """Everything around a contest; `ups` and `downs` are the systems that were started and stopped, in order."""

    def __init__(self, seconds: dict[str, float] | None = None, free_gib: Callable[[int], float] | None = None) -> None:
        self.client = Client(seconds or {})
        self.ups: list[str] = []
        self.downs: list[str] = []
        self.now_up: dict[str, Serving] = {}
        self.notes: list[str] = []
        self.progress: list[str] = []
        self.expected: tuple[int, float] = (0, 0.0)
        self.gap_s = 0.0
        self._free_gib = free_gib or (lambda up: 100.0 - up)

    @asynccontextmanager
    async def up(self, one: System) -> AsyncIterator[Serving]:
        self.ups.append(one.name)
        serving = Serving(one, one.url, "model", 1.0, asyncio.get_running_loop().create_future())
        key = f"{one.name} {len(self.ups)}"
        self.now_up[key] = serving
        try:
            yield serving
        finally:
            self.downs.append(one.name)
            del self.now_up[key]

    def expect(self, runs: int, work_s: float) -> None:
        self.expected = runs, work_s

    def done(self, text: str, work_s: float) -> None:
        self.progress.append(text)

    @property
    def stage(self) -> Stage:
        free_gib = self._free_gib
        return Stage(
            self.up,
            self.client,
            lambda: free_gib(len(self.now_up)),
            self,
            self.notes.append,
            cpu_s=lambda serving: 0.0,
            ticker=lambda: Steady(self.gap_s),
        )

    def contest(self, settings: Settings, folder: Folder, sets: Sets | None = None) -> Contest:
        again = system(settings.systems[0]) if settings.aa else None
        labels = entrants([system(name) for name in settings.systems], again)
        dealer = Dealer(sets or {"short": prompt_set("short", 80), "long": prompt_set("long", 80)}, settings)
        return Contest(settings, labels, dealer, folder, self.stage)
