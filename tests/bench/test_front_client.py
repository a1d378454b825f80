"""The client of the front benchmark and the fake server, on each other and on servers that misbehave."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from streamserve.bench import fake_server, front_client
from streamserve.bench.fake_server import MODEL
from streamserve.bench.front_client import Answered, Plan, drive, requests, summary
from streamserve.lanes.vllm.environment import free_port


@asynccontextmanager
async def faked(interval_s: float = 0.0) -> AsyncIterator[int]:
    async with await fake_server.listen(0, interval_s) as server:
        yield server.sockets[0].getsockname()[1]


def plan(port: int, streams: int = 3, tokens: int = 4, **more: float) -> Plan:
    return Plan(port, MODEL, streams, tokens, **{"seconds": 0.0, **more})  # type: ignore[arg-type]


async def test_every_stream_asks_at_least_twice() -> None:
    async with faked() as port:
        load = await drive(plan(port))
    assert (load.requests, load.failed) == (6, 0)
    assert load.ttft_p50_ms and load.e2e_p50_ms and load.e2e_p99_ms
    assert 0 < load.ttft_p50_ms <= load.e2e_p50_ms <= load.e2e_p99_ms
    assert load.rate == pytest.approx(6 / load.seconds)


async def test_tokens_come_at_their_interval() -> None:
    async with faked(interval_s=0.01) as port:
        load = await drive(plan(port, streams=1, tokens=5))
    assert load.failed == 0
    assert load.ttft_p50_ms and load.e2e_p50_ms
    assert load.ttft_p50_ms >= 9
    assert load.e2e_p50_ms - load.ttft_p50_ms >= 36


def test_prompts_differ_and_the_same_seed_gives_the_same() -> None:
    made = requests(plan(1))
    assert made == requests(plan(1)) != requests(plan(1, seed=1))
    bodies = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in made]
    assert len({body["messages"][0]["content"] for body in bodies}) == len(made)
    assert {(body["max_tokens"], body["stream"]) for body in bodies} == {(4, True)}


async def test_the_fake_server_speaks_as_vllm_s() -> None:
    ask = {"model": MODEL, "messages": [], "max_tokens": 3, "stream": True}
    async with faked() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert (await http.get("/v1/models")).json()["data"][0]["id"] == MODEL
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/nowhere")).status_code == 404
        plain = await http.post("/v1/chat/completions", json={**ask, "stream": False})
        streamed = await http.post("/v1/chat/completions", json=ask)
        counted = await http.post("/v1/chat/completions", json={**ask, "stream_options": {"include_usage": True}})
    assert plain.json()["usage"]["completion_tokens"] == 3
    *events, end = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    choices = [json.loads(each)["choices"][0] for each in events]
    assert end == "[DONE]"
    assert [choice["delta"].get("content") for choice in choices] == ["", " token", " token", " token"]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "length"]
    assert json.loads(counted.text.split("\n\n")[-3].removeprefix("data: "))["usage"]["completion_tokens"] == 3


async def test_what_is_no_http_ends_the_connection() -> None:
    async with faked() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x00\x01\r\n\r\n")
        assert await reader.read() == b""
        writer.close()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"}]")
    body = b'{"error":{}}'
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"}]")
    writer.write(fake_server.OPENING + fake_server.ROLE + fake_server.TOKEN)
    await writer.drain()
    writer.close()


async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"}]")
    ending = fake_server.usage(1) + fake_server.event(b"[DONE]") + b"0\r\n\r\n"
    writer.write(fake_server.OPENING + fake_server.ROLE + fake_server.LAST + ending)
    await writer.drain()
    writer.close()


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"}]")
    writer.write(b"no HTTP\r\n\r\n")
    await writer.drain()
    await reader.read()
    writer.close()


@pytest.mark.parametrize("answer", [refusing, dying, short, babbling])
async def test_answers_that_are_not_whole_have_failed(answer: Answer) -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        load = await drive(plan(server.sockets[0].getsockname()[1], streams=2))
    assert (load.requests, load.failed) == (4, 4)
    assert load.rate == 0
    assert load.e2e_p99_ms is None


async def test_a_server_that_is_not_there_fails_every_stream() -> None:
    load = await drive(plan(free_port(), streams=2))
    assert (load.requests, load.failed) == (2, 2)


async def test_a_server_that_is_silent_fails_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(front_client, "LIMIT_S", 0.05)
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        load = await drive(plan(server.sockets[0].getsockname()[1], streams=2))
    assert (load.requests, load.failed) == (2, 2)


def test_a_summary_leaves_failures_out_of_latencies() -> None:
    answers = [Answered(0.1, 0.2, True), Answered(0.3, 0.4, True), Answered(9.0, 9.0, False)]
    load = summary(answers, 2.0, 0.5)
    assert (load.requests, load.failed, load.rate, load.cpu_s) == (3, 1, 1.0, 0.5)
    assert load.ttft_p50_ms == pytest.approx(200)
    assert load.e2e_p50_ms == pytest.approx(300)
    assert load.e2e_p99_ms == pytest.approx(398)
