"""`python -m streamserve.lanes.vllm.benchmark`: vLLM's benchmark client, kept running for many runs.

Starting `vllm bench serve` means 10 to 20 s of imports, so this process imports it once and then runs the client's own
`main` per job. Standard input: a `Job` as a line of JSON. Standard output: a line of JSON when the client is imported,
`{"vllm": VERSION}`, and one per job, `{}` or `{"error": ...}`. What the client prints goes to standard error.
"""

import asyncio
import gc
import math
import os
import sys
import time
import traceback
from argparse import ArgumentParser
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

import msgspec

from streamserve.errors import one_line

if TYPE_CHECKING:
    from vllm.benchmarks.datasets import SampleRequest
    from vllm.benchmarks.lib.endpoint_request_func import RequestFunc, RequestFuncInput, RequestFuncOutput


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run of the client."""

    argv: list[str]
    """The arguments of `vllm bench serve`."""
    limit_s: float
    """From the run's first request on; requests that have not ended by then are cut off, their streams closed."""
    offsets_s: list[float] | None = None
    """When each request is sent, from the run's start; None = as the client draws it."""


def main() -> None:
    """Serve jobs until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import vllm
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    _answer(answers, {"vllm": vllm.__version__})
    for line in sys.stdin:
        try:
            _run(parser, msgspec.json.decode(line, type=Job))
        # The parser leaves by SystemExit, and whatever fails in one run must not end the process for the others.
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            _answer(answers, {"error": one_line(error)})
        else:
            _answer(answers, {})
        # The client freezes what it finds in memory at every run; it would never be given back.
        gc.unfreeze()


def _answer(answers: IO[str], answer: dict[str, str]) -> None:
    answers.write(msgspec.json.encode(answer).decode() + "\n")


def _run(parser: ArgumentParser, job: Job) -> None:
    from vllm.benchmarks import serve

    args = parser.parse_args(job.argv)
    with _cut_off(args.backend, job.limit_s), _timed(job.offsets_s):
        serve.main(args)


@contextmanager
def _cut_off(backend: str, limit_s: float) -> Iterator[None]:
    """Have the client's request function give up at the run's end."""
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS

    own = ASYNC_REQUEST_FUNCS[backend]
    ASYNC_REQUEST_FUNCS[backend] = _bounded(own, limit_s)
    try:
        yield
    finally:
        ASYNC_REQUEST_FUNCS[backend] = own


def _bounded(request: "RequestFunc", limit_s: float) -> "RequestFunc":
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput

    end_s: float | None = None

    async def bounded(request_func_input: "RequestFuncInput", session: Any, pbar: Any = None) -> "RequestFuncOutput":
        nonlocal end_s
        begun_s = time.perf_counter()
        end_s = asyncio.get_running_loop().time() + limit_s if end_s is None else end_s
        try:
            # Closes the connection, by which the server learns that nobody waits any more.
            async with asyncio.timeout_at(end_s):
                return await request(request_func_input=request_func_input, session=session, pbar=pbar)
        except TimeoutError:
            return RequestFuncOutput(
                error=f"TimeoutError: cut off {limit_s:g} s after the run's first request",
                start_time=begun_s,
                prompt_len=request_func_input.prompt_len,
            )

    return bounded


@contextmanager
def _timed(offsets_s: Sequence[float] | None) -> Iterator[None]:
    """Have the client send its requests at these times, by the generator that it replays traces with."""
    from vllm.benchmarks import serve

    own = serve.get_request

    async def timed(requests: "list[SampleRequest]", *_: Any) -> "AsyncGenerator[tuple[SampleRequest, float]]":
        assert offsets_s is not None
        stamped = [replace(each, timestamp=at_s) for each, at_s in zip(requests, offsets_s, strict=True)]
        async for each in own(stamped, math.inf, self_timed=True):
            yield each

    if offsets_s is not None:
        # Called with less than the original can take, which a type checker cannot know.
        substitute: Any = timed
        serve.get_request = substitute
    try:
        yield
    finally:
        serve.get_request = own


if __name__ == "__main__":
    main()
