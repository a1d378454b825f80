"""What `streamserve simulate` and `streamserve validate` send: plans by arrivals, load and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from streamserve.bench.planner import Cell, Mix, Planner
from streamserve.errors import ConfigError
from streamserve.types import Slo
from streamserve.workload import arrivals, lengths, plan, prompts
from streamserve.workload.lengths import Lengths, Row
from streamserve.workload.plan import Encode, Plan


@dataclass(frozen=True, slots=True)
class Workload:
    """What requests are made of; the first of `trace`, `prompts` and `lengths` that is given."""

    trace: Path | None = None
    """CSV of arrivals and lengths."""
    prompts: Path | None = None
    """Folder of JSONL prompt sets."""
    workloads: Sequence[str] = ()
    """Those of the folder, in this order; empty = all."""
    lengths: str = "128:100"
    """Means of made-up prompt and output lengths."""
    length_scale: float = 1.0
    multi_turn: bool = False
    turns: int = 4
    pause: float = 8.0
    slo_ttft: float = 3.0
    slo_tpot: float = 0.1
    seed: int = 0

    @property
    def mix(self) -> Mix:
        slo = Slo(self.slo_ttft, self.slo_tpot)
        return Mix(self.seed, self.length_scale, slo, self.multi_turn, self.turns, self.pause)


class Plans(Protocol):
    """The plans of every cell, the same for all systems."""

    def cell(self, cell: Cell, capacity: float, n: int) -> Plan:
        """About `n` requests at the cell's share of the capacity."""
        ...

    def burst(self, n: int, seed: int) -> Plan:
        """`n` requests at once."""
        ...


def plans(workload: Workload, encode: Encode | None = None) -> Plans:
    """The plans of a workload.

    encode: makes texts tokens, None = about as many. Raises `ConfigError`.
    """
    if not 0 < workload.length_scale < float("inf"):
        raise ConfigError(f"--length-scale must be above 0, got {workload.length_scale:g}")
    if workload.multi_turn and (workload.prompts is None or workload.trace is not None):
        raise ConfigError("--multi-turn strings prompts together: name their folder with --prompts")
    if workload.trace is not None:
        return TracePlans(lengths.read_rows(workload.trace), workload)
    if workload.prompts is not None:
        return Planner(
            prompts.load_folder(workload.prompts, workload.workloads), encode or lengths.pieces, workload.mix
        )
    return LengthPlans(lengths.parse(workload.lengths), workload)


class LengthPlans:
    """Made-up lengths at the arrivals of the cell."""

    def __init__(self, means: Lengths, workload: Workload) -> None:
        scale = workload.length_scale
        self._means = Lengths(max(1.0, scale * means.prompt_tokens), max(1.0, scale * means.output_tokens))
        self._workload = workload

    def cell(self, cell: Cell, capacity: float, n: int) -> Plan:
        rng = np.random.default_rng([self._workload.seed, cell.repeat])
        rate = cell.load * capacity
        times_s = plan.take(arrivals.parse(cell.arrivals).times(rate, rng), n)
        return lengths.plan(arrivals.stretched(times_s, rate), self._means, rng, self._slo)

    def burst(self, n: int, seed: int) -> Plan:
        rng = np.random.default_rng([self._workload.seed, 1_000_000 + seed])
        return lengths.plan([0.0] * n, self._means, rng, self._slo)

    @property
    def _slo(self) -> Slo:
        return Slo(self._workload.slo_ttft, self._workload.slo_tpot)


class TracePlans:
    """The trace's own arrivals, made faster or slower, and lengths; another repeat begins further on in it."""

    def __init__(self, rows: Sequence[Row], workload: Workload) -> None:
        self._rows = rows
        self._workload = workload

    def cell(self, cell: Cell, capacity: float, n: int) -> Plan:
        return self._replayed(n, cell.repeat, cell.load * capacity)

    def burst(self, n: int, seed: int) -> Plan:
        rows = [lengths.Row(0.0, each.prompt_tokens, each.output_tokens, each.blocks) for each in self._rows[:n]]
        return self._plan(rows, seed, None)

    def recorded(self, n: int) -> Plan:
        """The trace at its own speed."""
        return self._replayed(n, 0, None)

    def _replayed(self, n: int, repeat: int, rate: float | None) -> Plan:
        rows = self._rows[repeat * n : (repeat + 1) * n]
        if len(rows) < n:
            raise ConfigError(
                f"--trace has {len(self._rows)} requests, {n} of them for each seed are wanted: take fewer seeds or "
                "--requests"
            )
        return self._plan(rows, repeat, rate)

    def _plan(self, rows: Sequence[Row], seed: int, rate: float | None) -> Plan:
        slo = Slo(self._workload.slo_ttft, self._workload.slo_tpot)
        return lengths.replayed(rows, rate, self._workload.length_scale, seed, slo)
