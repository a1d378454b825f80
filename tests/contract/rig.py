"""What the contract suite needs of an implementation of `Lane`; another one is put under test by its rig in `RIGS`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.lane import SimLane
from streamserve.lanes.sim.options import LaneOptions
from streamserve.lanes.sim.work import SimWork, sim_request
from streamserve.protocols import Lane
from streamserve.types import LaneId, Request
from tests.calibrations import example
from tests.fakes import FakeLane, make_request, started


@dataclass(frozen=True)
class Rig:
    """Two lanes that can hand KV to each other, both ready.

    request: a request by id and max_tokens whose generation does not stop before max_tokens.
    kill: end a lane's engine the hard way. settled: return once no lane holds anything of any request.
    fresh: one more lane, not started; the test closes it.
    """

    prefill: Lane
    decode: Lane
    request: Callable[[str, int], Request]
    kill: Callable[[Lane], None]
    settled: Callable[[], Coroutine[Any, Any, None]]
    fresh: Callable[[], Lane]


@asynccontextmanager
async def fake_rig() -> AsyncIterator[Rig]:
    lanes = list((await started("lane-0", "lane-1")).values())

    async def settled() -> None:
        while not all(lane.idle for lane in lanes):
            await asyncio.sleep(0)

    def kill(lane: Lane) -> None:
        assert isinstance(lane, FakeLane)
        lane.die("killed")

    yield Rig(
        prefill=lanes[0],
        decode=lanes[1],
        request=lambda id, max_tokens: make_request(id, prompt=(5, 6, 7, 8), max_tokens=max_tokens, continuable=True),
        kill=kill,
        settled=settled,
        fresh=lambda: FakeLane("lane-2"),
    )
    for lane in lanes:
        await lane.aclose()


@asynccontextmanager
async def sim_rig() -> AsyncIterator[Rig]:
    calibration = example()
    host = Host(calibration, np.random.default_rng(0))

    # The suite runs in real time.
    options = LaneOptions(speed=500.0, start_s=0.01)

    def lane(index: int) -> SimLane:
        rng = np.random.default_rng(index)
        id = LaneId(f"lane-{index}")
        return SimLane(id, calibration, host, EngineConfig(), SpeculationConfig(), rng, options)

    def request(id: str, max_tokens: int) -> Request:
        return sim_request(id, (5, 6, 7, 8), max_tokens, 0.0, SimWork(max_tokens, "mix"))

    async def settled() -> None:
        while any(s.running or s.waiting or s.kv_used for s in (each.signals() for each in lanes)):
            await asyncio.sleep(0.001)

    def kill(victim: Lane) -> None:
        assert isinstance(victim, SimLane)
        victim.fail("killed")

    lanes = [lane(0), lane(1)]
    await asyncio.gather(*(each.start(lambda _lane, _stage: None) for each in lanes))
    yield Rig(lanes[0], lanes[1], request, kill, settled, fresh=lambda: lane(2))
    await asyncio.gather(*(each.aclose() for each in lanes))


RIGS: dict[str, Callable[[], AbstractAsyncContextManager[Rig]]] = {"fake": fake_rig, "sim": sim_rig}
