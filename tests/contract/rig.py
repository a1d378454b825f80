"""What the contract suite needs of an implementation of `Lane`; another one is put under test by its rig in `RIGS`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from streamserve.protocols import Lane
from streamserve.types import Request
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


RIGS: dict[str, Callable[[], AbstractAsyncContextManager[Rig]]] = {"fake": fake_rig}
