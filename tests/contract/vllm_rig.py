"""Two real lanes under the contract: float32, since the suite compares tokens exactly."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from streamserve.config import EMBEDDED_MODEL, EngineConfig, SpeculationConfig
from streamserve.lanes.vllm import model
from streamserve.lanes.vllm.launch import Launcher
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.protocols import Lane
from streamserve.types import LaneId, Request
from tests.contract.rig import Rig

PROMPT = list(range(1000, 1040))


def vllm_request(request_id: str, max_tokens: int) -> Request:
    """A greedy request that runs to its last token."""
    from streamserve.lanes.vllm.requests import greedy_request

    return greedy_request(request_id, list(PROMPT), max_tokens)


@asynccontextmanager
async def vllm_rig() -> AsyncIterator[Rig]:
    from streamserve.lanes.vllm.lane import VllmLane

    logs = Path(tempfile.mkdtemp(prefix="streamserve-contract-"))
    launcher = Launcher("cpu", logs)
    folder = str(model.resolve(EMBEDDED_MODEL, lambda _: None))
    engine = EngineConfig(dtype="float32", max_model_len=1024, kv_cache_gib=0.5)

    def lane(index: int) -> VllmLane:
        core = sorted(os.sched_getaffinity(0))[index % 2]
        plan = LanePlan(LaneId(f"lane-{index}"), index, "cpu", (core,), transfers_kv=True)
        return VllmLane(plan, folder, engine, SpeculationConfig(), launcher, lambda _index, _outputs: None)

    lanes = [lane(0), lane(1)]
    await asyncio.gather(*(each.start(lambda _lane, _stage: None) for each in lanes))

    async def settled() -> None:
        while any(s.running or s.waiting or s.kv_used for s in (each.signals() for each in lanes)):
            await asyncio.sleep(0.05)

    def kill(victim: Lane) -> None:
        pid = victim.signals().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    yield Rig(lanes[0], lanes[1], vllm_request, kill, settled, fresh=lambda: lane(2))
    await asyncio.gather(*(each.aclose() for each in lanes))
