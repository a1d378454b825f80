"""`python -m streamserve.bench.front_client PLAN`: a load of streams that cost the client next to nothing.

A closed loop: so many connections, each with one request on its way at a time. Prints a `Load` as JSON.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httptools
import msgspec
import uvloop

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
]
PROMPTS = 256
LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent."""

    port: int
    model: str
    streams: int
    tokens: int
    seconds: float
    """New requests follow for so long."""
    rounds: int = 2
    """The fewest requests of each connection."""
    prompt_words: int = 60
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """One request; seconds from its sending on."""

    ttft_s: float
    e2e_s: float
    whole: bool
    """Whether it brought everything it should."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it; milliseconds of the requests that were served whole, None where none was."""

    requests: int
    failed: int
    seconds: float
    cpu_s: float
    """CPU time of this client."""
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    e2e_p50_ms: float | None
    e2e_p99_ms: float | None

    @property
    def rate(self) -> float:
        """Served requests per second."""
        return (self.requests - self.failed) / self.seconds


def summary(answers: Sequence[Answered], seconds: float, cpu_s: float) -> Load:
    """The figures of a run."""
    whole = [each for each in answers if each.whole]
    ttft = _p50_p99([each.ttft_s for each in whole])
    e2e = _p50_p99([each.e2e_s for each in whole])
    return Load(len(answers), len(answers) - len(whole), seconds, cpu_s, *ttft, *e2e)


def requests(plan: Plan) -> list[bytes]:
    """HTTP requests whose prompts differ from their first words on."""
    draw = random.Random(plan.seed)
    made = []
    for number in range(PROMPTS):
        words = " ".join(draw.choice(WORDS) for _ in range(plan.prompt_words))
        body = msgspec.json.encode({
            "model": plan.model,
            "messages": [{"role": "user", "content": f"{number} {words}"}],
            "max_tokens": plan.tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        })  # fmt: skip
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{plan.port}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        made.append(head.encode() + body)
    return made


class Connection(asyncio.Protocol):
    """A connection that sends a request and waits for all of its answer."""

    def __init__(self, tokens: int) -> None:
        self._ending = b'"completion_tokens":%d' % tokens
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[Answered] | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports are none of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._end(False)

    async def ask(self, request: bytes) -> Answered:
        """Send a request; its answer, whole or not. Cancelling closes the connection."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._first_s: float | None = None
        self._answered = asyncio.get_running_loop().create_future()
        self._begun_s = time.perf_counter()
        self._transport.write(request)
        try:
            return await self._answered
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, body: bytes) -> None:
        if self._first_s is None:
            self._first_s = time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._end(self._parser.get_status_code() == 200 and self._ending in body and b"[DONE]" in body)
        if not self._parser.should_keep_alive():
            self.close()
            self.closed = True

    def _end(self, whole: bool) -> None:
        answered, self._answered = self._answered, None
        if answered is not None and not answered.done():
            at_s = time.perf_counter()
            answered.set_result(Answered((self._first_s or at_s) - self._begun_s, at_s - self._begun_s, whole))


async def drive(plan: Plan) -> Load:
    """Send the load; whatever has no answer when the time limit is over has failed."""
    prepared = requests(plan)
    answers: list[Answered] = []
    begun_s = time.perf_counter()
    begun_cpu_s = time.process_time()
    streams = [asyncio.create_task(_stream(plan, prepared, place, begun_s, answers)) for place in range(plan.streams)]
    _, late = await asyncio.wait(streams, timeout=LIMIT_S)
    for stream in late:
        stream.cancel()
    await asyncio.gather(*streams)
    return summary(answers, time.perf_counter() - begun_s, time.process_time() - begun_cpu_s)


async def _stream(plan: Plan, prepared: Sequence[bytes], place: int, begun_s: float, answers: list[Answered]) -> None:
    connection: Connection | None = None
    done = 0
    try:
        while done < plan.rounds or time.perf_counter() - begun_s < plan.seconds:
            if connection is None or connection.closed:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(plan.tokens), "127.0.0.1", plan.port
                )
            answers.append(await connection.ask(prepared[(place + done * plan.streams) % PROMPTS]))
            done += 1
    except (OSError, asyncio.CancelledError):
        # The server refuses connections, or the time is over: what this stream was to ask has failed.
        answers.append(Answered(0.0, 0.0, whole=False))
    finally:
        if connection is not None:
            connection.close()


def _p50_p99(seconds: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    if not seconds:
        return None, None
    if len(seconds) == 1:
        return 1000 * seconds[0], 1000 * seconds[0]
    centiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return 1000 * centiles[49], 1000 * centiles[98]


def command(plan: Plan) -> list[str]:
    """The command line of a process that sends this."""
    return [sys.executable, "-m", "streamserve.bench.front_client", msgspec.json.encode(plan).decode()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", help="a Plan as JSON")
    sent = msgspec.json.decode(parser.parse_args().plan, type=Plan)
    print(msgspec.json.encode(uvloop.run(drive(sent))).decode())
