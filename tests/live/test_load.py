"""Many clients at once, and what is left when they are gone."""

import asyncio
from threading import Event
from typing import NamedTuple

import openai
import psutil
import pytest

from tests.live.server import Server

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

STREAMS = 200
ALONE = 50
GROWTH_MIB = 5
"""What all processes together may grow by over that many requests. They come one at a time: the engine keeps what it
prepared for every size of batch, and 200 streams at once make sizes that were not there before for many waves."""


class Footprint(NamedTuple):
    """What all processes of a server hold."""

    memory_mib: float
    open_files: dict[int, int]
    """How many, by process."""


async def short_stream(client: openai.AsyncOpenAI, model: str, number: int) -> int:
    stream = await client.completions.create(
        model=model,
        prompt=f"{number} bottles of beer on the wall,",
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    tokens = 0
    async for chunk in stream:
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return tokens


def connected(server: Server) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, timeout=300)


async def at_once(server: Server) -> list[int]:
    async with connected(server) as client:
        return list(await asyncio.gather(*(short_stream(client, server.model, number) for number in range(STREAMS))))


async def one_by_one(server: Server) -> list[int]:
    async with connected(server) as client:
        return [await short_stream(client, server.model, number) for number in range(ALONE)]


def footprint(server: Server) -> Footprint:
    processes = server.processes()
    return Footprint(
        sum(process.memory_info().rss for process in processes) / 2**20,
        {process.pid: process.num_fds() for process in processes},
    )


IDLE_S = 5.0
IDLE_SHARE = 0.1
"""All processes together, of one core."""


def test_an_idle_server_takes_under_a_tenth_of_a_core(server: Server) -> None:
    server.wait_idle()
    processes = server.processes()

    def cpu_s() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in processes))

    before_s = cpu_s()
    Event().wait(IDLE_S)
    used = (cpu_s() - before_s) / IDLE_S
    print(f"idle: {used:.1%} of one core over {len(processes)} processes")
    assert used < IDLE_SHARE


def test_two_hundred_concurrent_streams_complete_and_leave_nothing(server: Server) -> None:
    assert asyncio.run(at_once(server)) == [8] * STREAMS
    server.wait_idle()
    before = footprint(server)
    assert asyncio.run(at_once(server)) == [8] * STREAMS
    server.wait_idle()
    after = footprint(server)
    assert after.open_files.keys() == before.open_files.keys()
    for pid, count in after.open_files.items():
        assert count <= before.open_files[pid] + 5, psutil.Process(pid).open_files()


def test_requests_take_no_memory_with_them(server: Server) -> None:
    assert asyncio.run(one_by_one(server)) == [8] * ALONE
    server.wait_idle()
    before = footprint(server)
    assert asyncio.run(one_by_one(server)) == [8] * ALONE
    server.wait_idle()
    grown_mib = footprint(server).memory_mib - before.memory_mib
    print(f"{ALONE} requests: {grown_mib:.2f} MiB")
    assert grown_mib < GROWTH_MIB
