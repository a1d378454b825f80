"""Disturbances, on processes that stand in for engines."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from streamserve.bench.disturb import Disturbance, disturbed, parse
from streamserve.errors import ConfigError
from streamserve.protocols import Lane
from streamserve.signals import LaneSignals
from tests.fakes import FakeLane, started


def test_a_disturbance_is_read_from_its_text() -> None:
    assert parse("slow:1") == Disturbance("slow", 1, 0.0)
    assert parse("kill:0@12.5") == Disturbance("kill", 0, 12.5)


@pytest.mark.parametrize("text", ["", "slow", "slow:", "slow:x", "kill:0@soon", "burn:0"])
def test_a_wrong_one_says_how_it_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match="slow:LANE"):
        parse(text)


class WithProcess:
    """A fake lane that has a process."""

    def __init__(self, lane: FakeLane, pid: int) -> None:
        self.lane, self.id, self.pid = lane, lane.id, pid

    def signals(self) -> LaneSignals:
        return replace(self.lane.signals(), pid=self.pid)


async def beside(process: "subprocess.Popen[bytes]") -> Lane:
    (lane,) = (await started("a")).values()
    return cast(Lane, WithProcess(lane, process.pid))


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


async def test_a_hog_runs_on_the_lanes_cores_and_ends_with_the_body(engine: "subprocess.Popen[bytes]") -> None:
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(engine.pid, {core})
    lane = await beside(engine)
    known = {child.pid for child in psutil.Process().children()}
    async with disturbed([lane], [Disturbance("slow", 0)]):
        async with asyncio.timeout(10):
            while not (new := [each for each in psutil.Process().children() if each.pid not in known]):
                await asyncio.sleep(0)
            while new[0].cpu_affinity() != [core]:
                await asyncio.sleep(0)
    assert not new[0].is_running()
    assert engine.poll() is None


async def test_a_killed_engine_is_gone(engine: "subprocess.Popen[bytes]") -> None:
    lane = await beside(engine)
    async with disturbed([lane], [Disturbance("kill", 0)]), asyncio.timeout(10):
        while engine.poll() is None:
            await asyncio.sleep(0)
    assert engine.returncode == -9


async def test_what_has_no_process_cannot_be_disturbed() -> None:
    (lane,) = (await started("a")).values()
    with pytest.raises(ConfigError, match="no process"):
        async with disturbed([lane], [Disturbance("kill", 0)]):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
