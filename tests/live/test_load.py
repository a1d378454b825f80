"""Many clients at once, and what is left when they are gone."""

import asyncio
from threading import Event

import openai
import psutil
import pytest

from tests.live.server import Server

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

STREAMS = 200
GROWTH_MIB = 150
"""What all processes together may grow by; caches fill during the first wave, so the second one is measured."""


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


async def wave(server: Server) -> list[int]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, timeout=300) as client:
        return list(await asyncio.gather(*(short_stream(client, server.model, number) for number in range(STREAMS))))


def footprint(server: Server) -> tuple[float, dict[int, int], int]:
    """MiB in use by all processes, open files of each, number of processes."""
    processes = server.processes()
    return (
        sum(process.memory_info().rss for process in processes) / 2**20,
        {process.pid: process.num_fds() for process in processes},
        len(processes),
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
    assert asyncio.run(wave(server)) == [8] * STREAMS
    server.wait_idle()
    memory_mib, files, processes = footprint(server)
    assert asyncio.run(wave(server)) == [8] * STREAMS
    server.wait_idle()
    grown_mib, files_after, processes_after = footprint(server)
    assert grown_mib - memory_mib < GROWTH_MIB
    assert processes_after == processes
    for pid, count in files_after.items():
        assert count <= files[pid] + 5, psutil.Process(pid).open_files()
