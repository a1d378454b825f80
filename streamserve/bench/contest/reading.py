"""What vLLM's benchmark client saved of a run, as samples."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from streamserve.bench.contest.cell import Sample
from streamserve.errors import SetupError


class Saved(msgspec.Struct, frozen=True):
    """The part of the client's detailed result that is read; an entry per request, in the order they were sent."""

    duration: float
    input_lens: list[int]
    output_lens: list[int]
    ttfts: list[float]
    itls: list[list[float]]
    latencies: list[float]
    start_times: list[float]
    """Of the machine's monotonic clock."""
    errors: list[str]


def read(path: Path) -> Saved:
    """The result in a file. Raises `SetupError` when it is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Saved)
    except (OSError, msgspec.DecodeError) as error:
        raise SetupError(f"{path} is no detailed result of `vllm bench serve`: {error}") from error


def samples(saved: Saved, output_tokens: Sequence[int]) -> tuple[Sample, ...]:
    """A sample per request. output_tokens: how many tokens each was to bring; one that brought others has failed.

    Raises `SetupError` when the result is of another number of requests.
    """
    if len(saved.errors) != len(output_tokens):
        raise SetupError(
            f"`vllm bench serve` tells of {len(saved.errors)} requests, {len(output_tokens)} were asked for"
        )
    first_s = min(saved.start_times)
    return tuple(_sample(saved, number, wanted, first_s) for number, wanted in enumerate(output_tokens))


def _sample(saved: Saved, number: int, wanted: int, first_s: float) -> Sample:
    error = _error(saved.errors[number])
    tokens = saved.output_lens[number]
    if error is None and tokens != wanted:
        # A stream that breaks off after its first piece is a success to the client.
        error = f"it brought {tokens} of {wanted} tokens"
    return Sample(
        begun_s=saved.start_times[number] - first_s,
        prompt_tokens=saved.input_lens[number],
        output_tokens=tokens,
        ttft_s=saved.ttfts[number] or None,
        e2e_s=None if error else saved.latencies[number],
        # The first is between the piece that names the role, sent with the first token, and that token.
        itl_s=tuple(saved.itls[number][1:]),
        error=error,
    )


def _error(text: str) -> str | None:
    """The last line of a traceback, which names what happened; None for an empty text."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else None
