"""A lane's end: cleaned up whole, whoever is cancelled meanwhile; and one that dies at the very end of its start."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason

from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.errors import LaneLost, LaneStartError
from streamserve.lanes.vllm import lane as lanes
from streamserve.lanes.vllm.handshake import Addresses
from streamserve.lanes.vllm.lane import VllmLane
from streamserve.lanes.vllm.launch import Launcher
from streamserve.lanes.vllm.link import FINISH
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.lanes.vllm.requests import greedy_request
from streamserve.types import Chunk, Finish, LaneId, LaneState
from tests.fakes import ticks


class Parts:
    """Link, process and addresses of a lane; those that are slow wait for `go`."""

    pid = 1
    hangs = False

    def __init__(self, slow: str = "") -> None:
        self.slow = slow
        self.go = asyncio.Event()
        self.done: list[str] = []
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.link_ended = asyncio.Event()

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

    async def ended(self) -> None:
        await self.link_ended.wait()

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


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_lane_whose_engine_said_that_it_ends_is_lost_whether_its_process_leaves_or_not(
    leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LEAVE_S", 0.05)
    parts = Parts()
    watch = asyncio.create_task(running(parts).lost())
    await ticks()
    parts.link_ended.set()
    await ticks()
    assert not watch.done()
    if leaves:
        parts.gone.set_result("its process ended with status 1")
    reason = await asyncio.wait_for(watch, 2)
    assert ("status 1" in reason) == leaves
    assert parts.done == ["failed", "closed", "killed", "unlinked"]
    parts.gone.cancel()


async def test_an_engine_that_hangs_while_it_warms_up_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*_: Any) -> None:
        lane._link = cast(Any, process)
        raise LaneLost("lane-0 hangs", lane=lane.id)

    async def at_once(function: Callable[[], Any]) -> Any:
        return None

    monkeypatch.setattr(lanes, "in_thread", at_once)
    process = Parts()
    process.hangs = True
    process.link_ended.set()
    lane = make_lane(Starter(process))
    monkeypatch.setattr(lane, "_connect", connect)
    with pytest.raises(LaneStartError, match="did not start: its engine hangs"):
        await asyncio.wait_for(lane.start(lambda _lane, _stage: None), 2)
    assert process.done == ["failed", "closed", "killed"]
    process.gone.cancel()


async def test_a_lane_whose_engine_hangs_is_not_waited_for() -> None:
    parts = Parts()
    parts.hangs = True
    watch = asyncio.create_task(running(parts).lost())
    await ticks()
    assert not watch.done()
    parts.link_ended.set()
    assert await asyncio.wait_for(watch, 2) == "its engine hangs"
    assert parts.done == ["failed", "closed", "killed", "unlinked"]
    parts.gone.cancel()


class OneOutput:
    """A link to an engine that answers with one output."""

    broken = False

    def __init__(self, output: EngineCoreOutput) -> None:
        self._output = output

    async def submit(self, request: EngineCoreRequest) -> Any:
        async def outputs() -> AsyncGenerator[Chunk, None]:
            reason = self._output.finish_reason
            yield Chunk(self._output.new_token_ids, 0.0, None if reason is None else FINISH[reason], self._output)

        return outputs()


@pytest.mark.parametrize(
    ("reason", "finish"),
    [(FinishReason.STOP, Finish.STOP), (FinishReason.LENGTH, None), (FinishReason.ERROR, Finish.ERROR)],
)
async def test_kv_held_for_a_decode_lane_is_told_of_also_when_the_first_token_is_the_last(
    reason: FinishReason, finish: Finish | None
) -> None:
    """vLLM holds it after a stop token too; where it lies is nothing for the client."""
    held = {"remote_block_ids": [[1]], "remote_request_id": "r/0"} if reason is not FinishReason.ERROR else None
    output = EngineCoreOutput("r", [7], finish_reason=reason, kv_transfer_params=held)
    lane = running(OneOutput(output))
    prefilled = await lane.prefill(greedy_request("r", [1, 2, 3], 8))
    assert (prefilled.chunk.finish, prefilled.kv and prefilled.kv.params) == (finish, held)
    assert output.kv_transfer_params is None


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
