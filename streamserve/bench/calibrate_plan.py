"""What a calibration drives: cells of every kind, in a random order in which every beginning is a fair sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MAX_BATCH_TOKENS = 8192
"""Prompt tokens of a batch that are computed before it decodes: the rest of the time is for steps that tell more."""


@dataclass(frozen=True, slots=True)
class Decode:
    """A batch decodes at a fixed depth for so many steps."""

    batch: int
    prompt_tokens: int
    depth: int
    steps: int = 8


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt by itself, of so many tokens after `cached_tokens` whose KV the lane has."""

    tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Mixed:
    """Prompts come one by one to a lane that decodes a batch."""

    batch: int
    tokens: int
    depth: int = 0
    prompts: int = 3


@dataclass(frozen=True, slots=True)
class Together:
    """A lane decodes a batch while another one works and rests in turn."""

    batch: int
    depth: int
    other_prompt_tokens: int
    """0 = the other lane decodes, else it computes such prompts, one after another."""
    turns: int = 5
    """Of 6 steps each; the other lane rests in the first, third, ..."""


@dataclass(frozen=True, slots=True)
class Split:
    """A prompt prefilled on one lane and decoded on another."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Real:
    """The next real prompts on all lanes at once."""


Cell = Decode | Prompt | Mixed | Together | Split | Real

SHARES: Mapping[str, float] = {"steps": 0.55, "together": 0.13, "split": 0.07, "real": 0.25}
"""Of the time, by subject."""

DEPTHS = (0, 2, 4, 8)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PROMPTS = (16, 32, 64, 128, 256, 512, 1024, 1800)
LONGER = ((1, 512), (1, 1800), (2, 1024), (4, 512), (4, 1500), (8, 256), (8, 1000), (16, 512), (32, 200))
CACHED = ((1024, 64), (1024, 512), (256, 256), (512, 1024), (1500, 300))
FEW_MIXED = ((1, 16), (1, 64), (4, 32), (8, 32), (16, 64))
"""Short prompts beside few requests, where a step may have room for some of their tokens at no cost."""
MIXED = (*FEW_MIXED, (4, 256), (4, 1024), (8, 128), (8, 512), (16, 256), (32, 512))
SPLITS = (16, 64, 128, 256, 512, 1024, 1800)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the lanes allow. lanes: how many there are."""

    lanes: int
    max_running: int
    max_step_tokens: int
    max_len: int
    max_depth: int


def subjects(limits: Limits) -> dict[str, list[list[Cell]]]:
    """By subject, levels of cells: the first alone suffices for a fit, the others make it finer."""
    coarse: list[Cell] = [Decode(batch, 32, depth) for batch in (1, 8, 64) for depth in (0, 8)]
    coarse += [Decode(2, 1024, 0), Decode(4, 512, 0), Mixed(8, 128), Mixed(4, 512), Prompt(512, 1024)]
    coarse += [Prompt(tokens) for tokens in (16, 128, 512, 1800)]
    fine: list[Cell] = [Decode(batch, 32, depth) for batch in BATCHES for depth in DEPTHS]
    fine += [Decode(batch, tokens, 0) for batch, tokens in LONGER]
    fine += [Decode(batch, tokens, 4) for batch, tokens in LONGER if batch * tokens <= MAX_BATCH_TOKENS / 4]
    fine += [Mixed(batch, tokens, depth) for batch, tokens in MIXED for depth in (0, 4)]
    fine += [Prompt(tokens) for tokens in PROMPTS for _ in range(2)]
    fine += [Prompt(tokens, cached) for cached, tokens in CACHED]
    together: list[Cell] = [Together(8, 0, 0), Together(4, 4, 256)]
    more: list[Cell] = [Together(batch, depth, other) for batch, depth in ((1, 0), (16, 2)) for other in (0, 256)]
    short: list[Cell] = [Split(tokens) for tokens in SPLITS if tokens <= 512]
    split: list[Cell] = [Split(tokens) for tokens in SPLITS]
    found: dict[str, list[list[Cell]]] = {
        "steps": [coarse, fine],
        "together": [together, together + more],
        "split": [short, split],
        "real": [[Real()]],
    }
    if limits.lanes < 2:
        del found["together"], found["split"]
    return {name: [[cell for cell in each if fits(cell, limits)] for each in levels] for name, levels in found.items()}


def fits(cell: Cell, limits: Limits) -> bool:
    """Whether the lanes can run this cell."""
    match cell:
        case Decode(batch, tokens, depth, steps):
            whole = tokens + (steps + 4) * (depth + 1)
            small = batch * tokens <= MAX_BATCH_TOKENS and whole <= limits.max_len
            return small and batch <= limits.max_running and depth <= limits.max_depth
        case Prompt(tokens, cached):
            return tokens <= limits.max_step_tokens and tokens + cached < limits.max_len
        case Mixed(batch, tokens, depth, _):
            one_step = batch * (depth + 1) + tokens <= limits.max_step_tokens
            return one_step and tokens < limits.max_len and batch < limits.max_running and depth <= limits.max_depth
        case Together(batch, depth, _, _):
            return batch <= limits.max_running and depth <= limits.max_depth
        case Split(tokens):
            return tokens <= limits.max_step_tokens and tokens + 4 < limits.max_len
        case Real():
            return True


class Agenda:
    """Which cell is next: of the subject furthest behind its share of the time, level by level, shuffled within each.

    After its last level a subject goes through it again in another order. `Real` cells end when their prompts do.
    """

    def __init__(self, levels: Mapping[str, Sequence[Sequence[Cell]]], rng: np.random.Generator) -> None:
        self._cells = {name: _endless(each, rng) for name, each in levels.items() if any(each)}
        self._spent_s = dict.fromkeys(self._cells, 0.0)
        self._needed = {name: len(levels[name][0]) for name in self._cells}

    def next(self, needed: bool = False) -> tuple[str, Cell] | None:
        """The next subject and cell, None when no subject is left; needed: of those whose first level is not done."""
        names = [name for name in self._cells if self._needed[name] > 0 or not needed]
        if not names:
            return None
        name = min(names, key=lambda each: self._spent_s[each] / SHARES[each])
        self._needed[name] -= 1
        return name, next(self._cells[name])

    def spent(self, name: str, seconds: float) -> None:
        """A cell of this subject took so long."""
        self._spent_s[name] += seconds

    def end(self, name: str) -> None:
        """There is nothing more to measure of this subject."""
        self._cells.pop(name, None)


def _endless(levels: Sequence[Sequence[Cell]], rng: np.random.Generator) -> Iterator[Cell]:
    for level in levels[:-1]:
        yield from _shuffled(level, rng)
    while True:
        yield from _shuffled(levels[-1], rng)


def _shuffled(cells: Sequence[Cell], rng: np.random.Generator) -> list[Cell]:
    return [cells[int(place)] for place in rng.permutation(len(cells))]
