"""Simulated lanes under virtual time, and what their requests saw."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from streamserve import virtual
from streamserve.clock import now
from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.lanes.sim.calibration import Calibration
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.lane import SimLane
from streamserve.lanes.sim.options import LaneOptions
from streamserve.lanes.sim.work import SimWork, sim_request
from streamserve.protocols import TokenStream
from streamserve.types import Chunk, LaneId, Request
from tests.calibrations import example

PLAIN = SpeculationConfig(method="none")
AT_ONCE = LaneOptions(start_s=0.0)


def calibrated(**fields: Any) -> Calibration:
    return msgspec.structs.replace(example(), **fields)


def uncoupled(**fields: Any) -> Calibration:
    """No coupling, and a front that takes no time."""
    front = msgspec.structs.replace(example().front, submit_s=0.0, return_s=0.0)
    return calibrated(**{"coupling": (1.0,), "front": front, **fields})


def request(id: str, prompt: int | Sequence[int] = 200, output: int = 20, **fields: Any) -> Request:
    """A request with its own prompt, so that it finds nothing in a cache, unless its tokens are given."""
    own = sum(ord(letter) * 31**place for place, letter in enumerate(id)) % 10**6
    tokens = tuple(range(own, own + prompt)) if isinstance(prompt, int) else tuple(prompt)
    work = SimWork(output, fields.pop("workload", "mix"), fields.pop("seed", own))
    made = sim_request(id, tokens, fields.pop("max_tokens", output + 1), 0.0, work)
    return msgspec.structs.replace(made, **fields) if isinstance(made, msgspec.Struct) else _with(made, fields)


def _with(made: Request, fields: dict[str, Any]) -> Request:
    from dataclasses import replace

    return replace(made, **fields)


@dataclass
class Shop:
    """Lanes of one host."""

    lanes: list[SimLane]
    host: Host
    seen: dict[str, list[Chunk]] = field(default_factory=dict)

    async def decode(self, request: Request, lane: int = 0, at_s: float = 0.0, **how: Any) -> list[Chunk]:
        """Submit it at that instant and read it to its end."""
        await asyncio.sleep(at_s - now())
        chunks = await read(await self.lanes[lane].decode(request, **how))
        self.seen[request.id] = chunks
        return chunks

    def empty(self) -> bool:
        snapshots = [lane.signals() for lane in self.lanes]
        return not any(each.running or each.waiting or each.kv_used or each.prefill_queued_tokens for each in snapshots)


def shop(
    lanes: int = 1,
    calibration: Calibration | None = None,
    speculation: SpeculationConfig = PLAIN,
    options: LaneOptions = AT_ONCE,
    noise: bool = False,
    **engine: Any,
) -> Shop:
    calibration = calibration or uncoupled()
    host = Host(calibration, np.random.default_rng(7), noise)
    made = [
        SimLane(
            LaneId(f"lane-{place}"),
            calibration,
            host,
            EngineConfig(**engine),
            speculation,
            np.random.default_rng(place),
            options,
        )
        for place in range(lanes)
    ]
    return Shop(made, host)


def run(body: Callable[[Shop], Awaitable[Any]], made: Shop | None = None, **how: Any) -> Any:
    """What the body returns, with the lanes started and closed around it."""

    async def main() -> Any:
        it = made or shop(**how)
        for lane in it.lanes:
            await lane.start(lambda _lane, _stage: None)
        try:
            return await body(it)
        finally:
            for lane in it.lanes:
                await lane.aclose()

    return virtual.run(main())


async def read(stream: TokenStream) -> list[Chunk]:
    return [chunk async for chunk in stream]


def tokens(chunks: Sequence[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]
