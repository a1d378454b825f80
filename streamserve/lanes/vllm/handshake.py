"""The greeting between the front and a lane's engine core: vLLM's own start-up protocol, the front's half of it.

The engine says HELLO, is told the addresses of its two sockets, loads the model, says READY.
vLLM's front does this while it blocks; here it is a coroutine, so that lanes start side by side.
"""

import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio
from vllm.v1.engine.utils import EngineHandshakeMetadata, EngineZmqAddresses


def _address() -> str:
    return f"ipc://{Path(tempfile.gettempdir()) / f'streamserve-{uuid.uuid4()}'}"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The sockets of one engine: greeting, requests to it, outputs from it."""

    handshake: str = field(default_factory=_address)
    inputs: str = field(default_factory=_address)
    outputs: str = field(default_factory=_address)

    def unlink(self) -> None:
        """Remove the sockets' files once the engine is gone; any earlier, one still on its way would never connect."""
        for address in (self.handshake, self.inputs, self.outputs):
            Path(address.removeprefix("ipc://")).unlink(missing_ok=True)


async def greet(addresses: Addresses) -> None:
    """Wait until the engine that was given `addresses.handshake` is ready to take requests."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    try:
        socket.bind(addresses.handshake)
        while True:
            identity, payload = await socket.recv_multipart()
            status = msgspec.msgpack.decode(payload)["status"]
            if status == "READY":
                return
            reply = EngineHandshakeMetadata(
                addresses=EngineZmqAddresses(inputs=[addresses.inputs], outputs=[addresses.outputs]),
                parallel_config={},
            )
            await socket.send_multipart([identity, msgspec.msgpack.encode(reply)])
    finally:
        socket.close()
        context.term()
