"""A lane that fails to order."""

from collections import deque
from collections.abc import Mapping, Sequence

from streamserve.protocols import Lane, Progress, TokenStream
from streamserve.signals import DepthControl, LaneSignals
from streamserve.types import Chunk, KVHandle, LaneId, Prefilled, Request


class FlakyLane:
    """Another lane, but its calls fail where the script says so.

    script: for each operation ("start", "prefill", "decode", "release", "control", "chunk") what each successive call
    raises; None, like the end of the list, lets the call through.
    """

    def __init__(self, lane: Lane, script: Mapping[str, Sequence[Exception | None]]) -> None:
        self._lane = lane
        self._script = {operation: deque(outcomes) for operation, outcomes in script.items()}

    @property
    def id(self) -> LaneId:
        return self._lane.id

    def signals(self) -> LaneSignals:
        return self._lane.signals()

    async def start(self, progress: Progress) -> None:
        self.play("start")
        await self._lane.start(progress)

    async def lost(self) -> str:
        return await self._lane.lost()

    async def prefill(self, request: Request) -> Prefilled:
        self.play("prefill")
        return await self._lane.prefill(request)

    async def decode(self, request: Request, kv: KVHandle | None = None, sent: Sequence[int] = ()) -> TokenStream:
        self.play("decode")
        return FlakyStream(self, await self._lane.decode(request, kv, sent))

    async def release(self, kv: KVHandle) -> None:
        self.play("release")
        await self._lane.release(kv)

    async def control(self, control: DepthControl | None, ttl_s: float) -> None:
        self.play("control")
        await self._lane.control(control, ttl_s)

    async def aclose(self) -> None:
        await self._lane.aclose()

    def play(self, operation: str) -> None:
        outcomes = self._script.get(operation)
        outcome = outcomes.popleft() if outcomes else None
        if outcome is not None:
            raise outcome


class FlakyStream:
    def __init__(self, lane: FlakyLane, stream: TokenStream) -> None:
        self._lane = lane
        self._stream = stream

    def __aiter__(self) -> "FlakyStream":
        return self

    async def __anext__(self) -> Chunk:
        self._lane.play("chunk")
        return await self._stream.__anext__()

    async def aclose(self) -> None:
        await self._stream.aclose()
