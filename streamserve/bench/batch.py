"""Batches on one lane: so many requests at once, and how fast they decode together.

The decode rate counts whole engine steps, from the one that gave the last of the requests its first token, from when on
all of them decode: prefill is outside. Where it ends is chosen by what is asked.

`full_batch_rate` ends with the last step in which all of them decode. Together with `enough` it is how long a batch
of exactly that size takes for so many tokens in all: requests are longer than that and are aborted at the end. Were
each to end at its own length, those that speculate best would end first, and the rate would be that of their text up to
there, or that of a batch which runs empty.

`until_last_rate` ends with the last token of all, tail included: what a client waits for a whole batch.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamserve.protocols import Lane
from streamserve.types import Request

Pieces = Sequence[tuple[float, int]]
"""One request's output: when each piece came, and how many tokens it had."""


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt, and how many tokens to generate for it."""

    prompt_token_ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Output:
    """What a lane makes of a job."""

    pieces: list[tuple[float, int]]
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens decoded by whole steps, and the time of these steps."""

    tokens: int
    seconds: float

    @property
    def per_s(self) -> float:
        return self.tokens / self.seconds

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.tokens + other.tokens, self.seconds + other.seconds)


class _Count:
    """Tokens made since all requests of a batch decode; `reached` when there are enough."""

    def __init__(self, requests: int, enough: int | None) -> None:
        self._prefilling = requests
        self._left = enough
        self.reached = asyncio.Event()

    def add(self, tokens: int, first: bool) -> None:
        """Count a piece of output."""
        if first:
            self._prefilling -= 1
        elif self._left is not None and not self._prefilling:
            self._left -= tokens
            if self._left <= 0:
                self.reached.set()


async def run(
    lane: Lane, jobs: Sequence[Job], name: str, make: Callable[[str, Job], Request], enough: int | None = None
) -> list[Output]:
    """Give all jobs to the lane at once and read them to their ends.

    enough: abort them once they made so many tokens together since all of them decode. Raises `LaneLost`.
    """
    count = _Count(len(jobs), enough)
    made = [Output([], []) for _ in jobs]
    async with asyncio.TaskGroup() as group:
        readers = [
            group.create_task(_read(lane, make(f"{name}-{i}", job), each, count))
            for i, (job, each) in enumerate(zip(jobs, made, strict=True))
        ]
        stop = group.create_task(_cancel(readers, count))
        await asyncio.wait(readers)
        stop.cancel()
    return made


async def _cancel(readers: Sequence[asyncio.Task[None]], count: _Count) -> None:
    await count.reached.wait()
    for reader in readers:
        reader.cancel()


async def _read(lane: Lane, request: Request, made: Output, count: _Count) -> None:
    stream = await lane.decode(request)
    try:
        async for chunk in stream:
            if chunk.token_ids:
                count.add(len(chunk.token_ids), first=not made.pieces)
                made.pieces.append((chunk.at_s, len(chunk.token_ids)))
                made.token_ids.extend(chunk.token_ids)
    finally:
        await stream.aclose()


def full_batch_rate(outputs: Sequence[Pieces]) -> Rate:
    """Of the steps in which all requests decoded. Raises `ValueError` when there was none."""
    return _rate(outputs, min(pieces[-1][0] for pieces in outputs))


def until_last_rate(outputs: Sequence[Pieces]) -> Rate:
    """Of the steps from when all requests decoded to the end of the last one; raises as `full_batch_rate` does."""
    return _rate(outputs, max(pieces[-1][0] for pieces in outputs))


def _rate(outputs: Sequence[Pieces], end_s: float) -> Rate:
    begin_s = max(pieces[0][0] for pieces in outputs)
    if end_s <= begin_s:
        raise ValueError("a request finished before the last one started to decode: generate more tokens")
    tokens = sum(tokens for pieces in outputs for at_s, tokens in pieces if begin_s < at_s <= end_s)
    return Rate(tokens, end_s - begin_s)
