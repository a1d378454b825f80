"""Prompts of which only the lengths matter: made-up ones, those of a trace, and texts without their tokenizer.

Simulated lanes look at tokens for one thing only, which prompts begin alike.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamserve.errors import ConfigError
from streamserve.types import NO_SLO, Slo
from streamserve.workload.arrivals import read_trace
from streamserve.workload.plan import Plan, Planned
from streamserve.workload.prompts import Prompt

VOCABULARY = 1 << 24
LETTERS = 4
"""Letters of one token, about the mean of English text in today's tokenizers."""
BLOCK_TOKENS = 512
"""Of one entry of `hash_ids`, as in Mooncake's traces."""
USAGE = "write PROMPT_TOKENS:OUTPUT_TOKENS, the two means, e.g. 128:100"


def pieces(prompt: Prompt) -> list[int]:
    """One made-up token per `LETTERS` letters: about as many as a tokenizer gives, alike where the text is alike."""
    text = "".join(f"<{role}>{told}" for role, told in prompt.messages).encode()
    return [zlib.crc32(text[at : at + LETTERS]) % VOCABULARY for at in range(0, len(text), LETTERS)]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Means of log-normal lengths whose standard deviation is their mean, as those of chat traces about are."""

    prompt_tokens: float
    output_tokens: float

    def draw(self, n: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Prompt and output tokens of `n` requests, each at least 1."""
        sigma = math.sqrt(math.log(2))
        means = (self.prompt_tokens, self.output_tokens)
        drawn = [rng.lognormal(math.log(mean) - sigma**2 / 2, sigma, n) for mean in means]
        prompts, outputs = ([max(1, round(float(each))) for each in values] for values in drawn)
        return prompts, outputs


def parse(spec: str) -> Lengths:
    """Lengths from their text. Raises `ConfigError`."""
    first, _, second = spec.partition(":")
    try:
        lengths = Lengths(float(first), float(second))
    except ValueError as error:
        raise ConfigError(f"lengths {spec!r}: {USAGE}") from error
    if not (1 <= lengths.prompt_tokens < math.inf and 1 <= lengths.output_tokens < math.inf):
        raise ConfigError(f"lengths {spec!r}: both must be at least 1 and finite; {USAGE}")
    return lengths


def plan(times_s: Sequence[float], lengths: Lengths, rng: np.random.Generator, slo: Slo = NO_SLO) -> Plan:
    """A request at each instant; no two prompts begin alike."""
    prompts, outputs = lengths.draw(len(times_s), rng)
    starts = rng.integers(VOCABULARY, size=len(times_s))
    return tuple(
        Planned(at_s, tuple(range(int(start), int(start) + prompt)), output, "mix", slo)
        for at_s, start, prompt, output in zip(times_s, starts, prompts, outputs, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Names of the blocks that its prompt is made of, equal where the text is; empty = like no other."""


def read_rows(path: Path) -> list[Row]:
    """A trace with columns `arrival_s`, `prompt_tokens`, `output_tokens` and, where it has them, `hash_ids`.

    Raises `ConfigError`, also where `arrival_s` is negative or goes back.
    """
    times_s = read_trace(path)
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        table = csv.DictReader(file)
        if missing := {"prompt_tokens", "output_tokens"} - set(table.fieldnames or ()):
            raise ConfigError(
                f"{path}: no column {' and '.join(sorted(missing))}; it has arrivals only: use --arrivals"
            )
        return [_row(path, line, at_s, row) for line, (at_s, row) in enumerate(zip(times_s, table, strict=True), 2)]


def replayed(
    rows: Sequence[Row], rate: float | None, length_scale: float, seed: int, slo: Slo = NO_SLO, workload: str = "mix"
) -> Plan:
    """The requests of a trace from its first on, which comes at 0; those of equal blocks begin alike.

    rate: mean arrivals per second, None = as recorded. length_scale: times all lengths.
    """
    times_s = [row.arrival_s - rows[0].arrival_s for row in rows]
    factor = 1.0 if rate is None or not times_s[-1] else len(rows) / rate / times_s[-1]
    planned = []
    for number, (at_s, row) in enumerate(zip(times_s, rows, strict=True)):
        length = max(1, round(row.prompt_tokens * length_scale))
        ids = _ids(row.blocks, length, max(1, round(BLOCK_TOKENS * length_scale)), seed * 1_000_003 + number + 1)
        planned.append(Planned(at_s * factor, ids, max(1, round(row.output_tokens * length_scale)), workload, slo))
    return tuple(planned)


def _ids(blocks: Sequence[int], length: int, block_tokens: int, own: int) -> tuple[int, ...]:
    """Tokens of a prompt: every block has its own, in a row; what is beyond the blocks has those of `own`."""
    ids = [name * 7919 + place for name in blocks[: -(-length // block_tokens)] for place in range(block_tokens)]
    rest = range(len(ids), length)
    return tuple(each % VOCABULARY for each in (*ids[:length], *(-own * 7919 - place for place in rest)))


def _row(path: Path, line: int, at_s: float, row: dict[str, str]) -> Row:
    try:
        lengths = int(row["prompt_tokens"]), int(row["output_tokens"])
        blocks = tuple(map(int, (row.get("hash_ids") or "").split()))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path} line {line}: lengths and hash_ids must be whole numbers") from error
    if min(lengths) < 1:
        raise ConfigError(f"{path} line {line}: a request needs at least one token of prompt and of output")
    return Row(at_s, *lengths, blocks)
