"""Traffic: an endless stream of requests to come, drawn from one seed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from streamserve.errors import ConfigError
from streamserve.types import Slo
from streamserve.workload import arrivals, lengths, prompts
from streamserve.workload.lengths import Lengths
from streamserve.workload.plan import Encode, Planned
from streamserve.workload.prompts import Prompt

MADE_AT_ONCE = 64


class Source(Protocol):
    """What requests are made of."""

    def means(self, length_scale: float) -> Lengths:
        """Of the prompts and outputs that it makes at this scale."""
        ...

    def requests(self, rng: np.random.Generator, length_scale: float) -> Iterator[Planned]:
        """Requests for ever, all of them at 0."""
        ...


@dataclass(frozen=True)
class MadeUp:
    """Log-normal lengths; no two prompts begin alike. vocabulary: token ids are below it."""

    lengths: Lengths
    vocabulary: int | None = None

    def means(self, length_scale: float) -> Lengths:
        """Both are scaled."""
        scaled = (length_scale * each for each in (self.lengths.prompt_tokens, self.lengths.output_tokens))
        return Lengths(*(max(1.0, each) for each in scaled))

    def requests(self, rng: np.random.Generator, length_scale: float) -> Iterator[Planned]:
        scaled = self.means(length_scale)
        while True:
            for planned in lengths.plan([0.0] * MADE_AT_ONCE, scaled, rng):
                yield planned if self.vocabulary is None else replace(planned, prompt_token_ids=self._wrapped(planned))

    def _wrapped(self, planned: Planned) -> tuple[int, ...]:
        assert self.vocabulary is not None
        return tuple(each % self.vocabulary for each in planned.prompt_token_ids)


class Texts:
    """The prompts of a folder, of every workload the same share, shuffled; none twice before all others came once."""

    def __init__(self, folder: Path, encode: Encode = lengths.pieces) -> None:
        self._sets = prompts.load_folder(folder)
        self._encode = encode
        every = [each for entries in self._sets.values() for each in entries]
        tokens = [len(encode(each)) for each in every]
        self._prompt_tokens = float(np.mean(tokens))
        self._max_tokens = np.array([each.max_tokens for each in every])

    def means(self, length_scale: float) -> Lengths:
        """A text is as long as it is: only outputs are scaled."""
        return Lengths(self._prompt_tokens, float(np.mean(np.maximum(2.0, self._max_tokens * length_scale))))

    def requests(self, rng: np.random.Generator, length_scale: float) -> Iterator[Planned]:
        most = sum(map(len, self._sets.values()))
        while True:
            for prompt in prompts.mix(self._sets, rng, most):
                yield self._planned(prompt, length_scale)

    def _planned(self, prompt: Prompt, length_scale: float) -> Planned:
        max_tokens = max(2, round(prompt.max_tokens * length_scale))
        return Planned(0.0, tuple(self._encode(prompt)), max_tokens, prompt.workload)


def source(workload: str | Path, vocabulary: int | None = None, encode: Encode | None = None) -> Source:
    """Made-up lengths from their text (`128:100`), or a folder of prompt sets. Raises `ConfigError`."""
    if isinstance(workload, str) and ":" in workload and not Path(workload).exists():
        return MadeUp(lengths.parse(workload), vocabulary)
    folder = Path(workload)
    if not folder.is_dir():
        raise ConfigError(f"workload {str(workload)!r}: {lengths.USAGE}, or name a folder of JSONL prompt sets")
    return Texts(folder, encode or lengths.pieces)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests of a source at the instants of an arrival process."""

    source: Source
    arrivals: str
    rate: float
    seed: int
    length_scale: float = 1.0
    output_share: tuple[float, float] = (1.0, 1.0)
    slo: Slo = Slo()

    def planned(self, n: int | None = None) -> Iterator[Planned]:
        """The first `n` requests, None = without end but a trace's; the same every time."""
        return islice(self._endless(), n)

    def _endless(self) -> Iterator[Planned]:
        seeds = np.random.SeedSequence(self.seed).spawn(3)
        when, what, share = (np.random.default_rng(each) for each in seeds)
        times_s = arrivals.parse(self.arrivals).times(self.rate, when)
        made = self.source.requests(what, self.length_scale)
        for at_s, planned in zip(times_s, made, strict=False):
            tokens = planned.max_tokens
            if self.output_share != (1.0, 1.0):
                tokens = max(1, round(tokens * float(share.uniform(*self.output_share))))
            yield Planned(
                at_s, planned.prompt_token_ids, planned.max_tokens, planned.workload, self.slo, output_tokens=tokens
            )
