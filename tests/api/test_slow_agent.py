"""An agent that is slow to go once another has come in its place."""

import asyncio
from types import SimpleNamespace
from typing import Any, ClassVar, cast

from streamserve.api import agent
from streamserve.api.admin import Keys
from streamserve.config import Config, LaneConfig, PolicyConfig
from streamserve.policy import wire
from streamserve.policy.seat import Wish
from streamserve.policy.switch import PolicySwitch
from streamserve.types import LaneId
from streamserve.virtual import run


class Stuck:
    """The server's end of a connection to an agent that reads nothing, not even that it is let go."""

    query_params: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.closing = asyncio.Event()

    async def accept(self) -> None: ...

    async def send_bytes(self, frame: bytes) -> None:
        await asyncio.Event().wait()

    async def receive(self) -> Any:
        await asyncio.Event().wait()

    async def close(self, code: int, reason: str) -> None:
        self.closing.set()
        await asyncio.Event().wait()


def test_one_that_is_slow_to_go_leaves_its_successor_in_place() -> None:
    async def main() -> None:
        switch = PolicySwitch(
            Config(lanes=[LaneConfig(LaneId("a"))], policy=PolicyConfig(source="heuristic", remote=True))
        )
        assert switch.seat is not None
        (route,) = agent.router(cast(Any, SimpleNamespace(look=lambda: None)), switch, Keys()).routes
        socket = Stuck()
        talking = asyncio.create_task(cast(Any, route).endpoint(socket))
        await socket.closing.wait()
        assert not switch.seat.taken
        successor: list[wire.Told] = []
        switch.seat.take(Wish(), successor.append, lambda: None)
        await talking
        assert asyncio.get_running_loop().time() == 2 * agent.SEND_LIMIT_S
        assert switch.seat.taken

    run(main())
