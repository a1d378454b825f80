"""What is sent in the cells of a benchmark: prompts of several sets, mixed, at the arrivals of the cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamserve.bench import report
from streamserve.types import Slo
from streamserve.workload import arrivals, plan, prompts
from streamserve.workload.plan import Encode, Plan
from streamserve.workload.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Cell:
    """What one run measures."""

    arrivals: str
    load: float
    repeat: int

    def path(self, folder: Path, system: str) -> Path:
        """Where its result lies."""
        return folder / "runs" / f"{report.slug(self.arrivals)}-{self.load:g}-{self.repeat}-{report.slug(system)}.json"


@dataclass(frozen=True, slots=True)
class Mix:
    """How requests are drawn from prompt sets."""

    seed: int = 0
    length_scale: float = 1.0
    """Times the prompts' own output lengths."""
    slo: Slo = Slo(3.0, 0.1)
    """Of every request."""
    multi_turn: bool = False
    """Conversations: the first set opens, the others follow up."""
    turns: int = 4
    pause_s: float = 8.0
    """Mean time between the turns of a conversation."""


class Planner:
    """Makes the plans of the cells: the same for every system, and again after a restart."""

    def __init__(self, sets: Mapping[str, Sequence[Prompt]], encode: Encode, mix: Mix) -> None:
        self._sets = sets
        self._encode = encode
        self._how = mix

    def cell(self, cell: Cell, capacity: float, n: int) -> Plan:
        """About `n` requests at the cell's share of the capacity."""
        rng = np.random.default_rng([self._how.seed, cell.repeat])
        process = arrivals.parse(cell.arrivals)
        rate = cell.load * capacity
        if self._how.multi_turn:
            return self._turns(process, rate, n, rng)
        return plan.plan(self._times(process, rate, n, rng), self._mix(rng, n), self._encode, self._how.slo)

    def burst(self, n: int, seed: int) -> Plan:
        """`n` requests at once."""
        rng = np.random.default_rng([self._how.seed, 1_000_000 + seed])
        return plan.plan([0.0] * n, self._mix(rng, n), self._encode, self._how.slo)

    def _times(self, process: arrivals.Arrivals, rate: float, n: int, rng: np.random.Generator) -> list[float]:
        return arrivals.stretched(plan.take(process.times(rate, rng), n), rate)

    def _mix(self, rng: np.random.Generator, n: int) -> list[Prompt]:
        return [self._scaled(each) for each in prompts.mix(self._sets, rng, n)]

    def _turns(self, process: arrivals.Arrivals, rate: float, n: int, rng: np.random.Generator) -> Plan:
        turns = self._how.turns
        talks = max(1, n // turns)
        starts_s = self._times(process, rate / turns, talks, rng)
        opener, *others = self._sets.values()
        followups = [each for entries in others or [opener] for each in entries]
        made = prompts.conversations(opener, followups, turns, talks, rng)
        scaled = [[self._scaled(each) for each in talk] for talk in made]
        return plan.turns(starts_s, scaled, self._how.pause_s, rng, self._encode, self._how.slo)

    def _scaled(self, prompt: Prompt) -> Prompt:
        return replace(prompt, max_tokens=max(2, round(prompt.max_tokens * self._how.length_scale)))
