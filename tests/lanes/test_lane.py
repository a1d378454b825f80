"""A lane's end: cleaned up whole, whoever is cancelled meanwhile; and one that dies at the very end of its start."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.errors import LaneStartError
from streamserve.lanes.vllm import lane as lanes
from streamserve.lanes.vllm.handshake import Addresses
from streamserve.lanes.vllm.lane import VllmLane
from streamserve.lanes.vllm.launch import Launcher
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.types import LaneId, LaneState
from tests.fakes import ticks


class Parts:
    """Link, process and addresses of a lane; those that are slow wait for `go`."""

    pid = 1

    def __init__(self, slow: str = "") -> None:
        self.slow = slow
        self.go = asyncio.Event()
        self.done: list[str] = []
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        self.done.append("failed")

    async def close(self) -> None:
        await self._do("closed")

    async def kill(self) -> None:
        await self._do("killed")

    async def stop(self) -> None:
        await self._do("stopped")

    def unlink(self) -> None:
        self.done.append("unlinked")

    async def exited(self) -> str:
        return await asyncio.shield(self.gone)

    def start_error(self, reason: str) -> LaneStartError:
        return LaneStartError(f"lane-0 did not start: {reason}")

    async def _do(self, what: str) -> None:
        if what == self.slow:
            await self.go.wait()
        self.done.append(what)


class Starter:
    """Launches what it was given."""

    log_folder = Path("logs")

    def __init__(self, process: Parts | None = None) -> None:
        self._process = process

    async def launch(self, spec: Any, on_stage: Callable[[str], None]) -> Any:
        return self._process


def make_lane(starter: Starter) -> VllmLane:
    plan = LanePlan(LaneId("lane-0"), 0, "cpu")
    launcher = cast(Launcher, starter)
    return VllmLane(plan, "model", EngineConfig(), SpeculationConfig(), launcher, lambda _index, _outputs: None)


def running(parts: Any) -> VllmLane:
    lane = make_lane(Starter())
    lane._state = LaneState.READY
    lane._link = lane._process = lane._addresses = parts
    return lane


@pytest.mark.parametrize("slow", ["closed", "killed"])
async def test_a_lost_lane_is_taken_down_whole_though_its_watch_is_cancelled(slow: str) -> None:
    parts = Parts(slow)
    lane = running(parts)
    watch = asyncio.create_task(lane.lost())
    await ticks()
    parts.gone.set_result("its process was ended by SIGKILL")
    await ticks()
    for _ in range(3):
        watch.cancel()
        await ticks()
    assert not watch.done()
    parts.go.set()
    with pytest.raises(asyncio.CancelledError):
        await watch
    assert parts.done == ["failed", "closed", "killed", "unlinked"]
    await lane.aclose()
    assert (len(parts.done), lane.signals().state) == (4, LaneState.STOPPED)


async def test_a_lane_is_stopped_whole_though_who_stops_it_is_cancelled() -> None:
    parts = Parts("stopped")
    closing = asyncio.create_task(running(parts).aclose())
    await ticks()
    closing.cancel()
    await ticks()
    parts.go.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert parts.done == ["failed", "closed", "stopped", "unlinked"]


async def test_an_engine_that_says_ready_and_nothing_more_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def greet(addresses: Addresses) -> None: ...

    async def at_once(function: Callable[[], Any]) -> Any:
        return None

    def silent(*_: Any) -> None:
        raise TimeoutError("Timed out waiting for engine core processes to start.")

    monkeypatch.setattr(lanes, "greet", greet)
    monkeypatch.setattr(lanes, "in_thread", at_once)
    monkeypatch.setattr(lanes, "EngineLink", silent)
    process = Parts()
    lane = make_lane(Starter(process))
    with pytest.raises(LaneStartError, match="did not start: its engine said that it is ready, and then nothing more"):
        await lane.start(lambda _lane, _stage: None)
    assert process.done == ["killed"]
    assert lane.signals().state is LaneState.LOST
    process.gone.cancel()
