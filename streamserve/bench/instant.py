"""`InstantLane`: a lane whose engine computes nothing, so that what is measured is the front.

Its tokens come as an engine's do: in steps, one for each running request, pushed to whoever waits for it. One step
follows the other at once or after an interval. What an engine in a process of its own costs the front besides, a
message per step to receive and decode, is left out.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from streamserve.clock import now
from streamserve.errors import NotSpeculating
from streamserve.protocols import Lane, Progress
from streamserve.signals import DepthControl, LaneSignals
from streamserve.types import Chunk, Finish, KVHandle, LaneId, LaneState, Prefilled, Request

FIRST_TOKEN, TOKENS = 1000, 1000
"""The ids that come in turn: ordinary words of any tokenizer."""
MOST_RUNNING = 512

MakeOutput = Callable[[str, list[int], bool], Any]
"""Request id, tokens, whether they are the last -> a chunk's `output`."""


class Stepping(Protocol):
    """Something that gains a token at each step."""

    def step(self) -> bool:
        """One more token; false when it was the last."""
        ...


class Steps:
    """An engine's steps: each gives every running stream one token. interval_s: from step to step, 0 = at once."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._streams: dict[int, Stepping] = {}
        self._due: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def join(self, stream: Stepping) -> None:
        self._streams[id(stream)] = stream
        if self._due is None:
            self._arm()

    def leave(self, stream: Stepping) -> None:
        """Does nothing when it is over."""
        self._streams.pop(id(stream), None)

    def _step(self) -> None:
        for key, stream in list(self._streams.items()):
            if not stream.step():
                self._streams.pop(key, None)
        self._due = None
        if self._streams:
            self._arm()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        if self._interval_s:
            self._due = loop.call_later(self._interval_s, self._step)
        else:
            self._due = loop.call_soon(self._step)


class InstantLane:
    """A lane that gives each request `max_tokens` tokens.

    output: makes what the front's detokenizer reads of a chunk.
    """

    def __init__(self, id: LaneId, output: MakeOutput, interval_s: float = 0.0) -> None:
        self._id = id
        self._output = output
        self._steps = Steps(interval_s)
        self._state = LaneState.STOPPED

    @property
    def id(self) -> LaneId:
        return self._id

    def signals(self) -> LaneSignals:
        return LaneSignals(self._id, self._state, now(), running=len(self._steps), max_running=MOST_RUNNING)

    async def start(self, progress: Progress) -> None:
        self._state = LaneState.READY
        progress(self._id, "ready")

    async def lost(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def prefill(self, request: Request) -> Prefilled:
        stream = self.open(request, last=1)
        chunk = await anext(stream)
        return Prefilled(chunk, None if request.max_tokens == 1 else KVHandle(self._id, {}))

    async def decode(self, request: Request, kv: KVHandle | None = None, sent: Sequence[int] = ()) -> "InstantStream":
        return self.open(request, len(sent))

    def open(self, request: Request, done: int = 0, last: int | None = None) -> "InstantStream":
        """The request's tokens from the one after `done` on, up to `last`, None = all."""
        stream = InstantStream(self, request, done, request.max_tokens if last is None else last)
        self._steps.join(stream)
        return stream

    async def release(self, kv: KVHandle) -> None:
        pass

    async def control(self, control: DepthControl | None, ttl_s: float) -> None:
        raise NotSpeculating(f"{self._id} drafts nothing: it has no engine")

    async def aclose(self) -> None:
        self._state = LaneState.STOPPED

    def leave(self, stream: "InstantStream") -> None:
        self._steps.leave(stream)

    def chunk(self, request: Request, place: int) -> Chunk:
        """The token at this place of the request's output."""
        token_ids = [FIRST_TOKEN + place % TOKENS]
        finished = place + 1 == request.max_tokens
        output = self._output(request.id, token_ids, finished)
        return Chunk(token_ids, now(), Finish.LENGTH if finished else None, output, self._id)


class InstantStream:
    """The output of one request on an `InstantLane`."""

    def __init__(self, lane: InstantLane, request: Request, done: int, last: int) -> None:
        self._lane = lane
        self._request = request
        self._place = done
        self._last = last
        self._left = last - done
        self._chunks: deque[Chunk] = deque()
        self._arrived = asyncio.Event()

    def __aiter__(self) -> "InstantStream":
        return self

    async def __anext__(self) -> Chunk:
        if not self._left:
            raise StopAsyncIteration
        while not self._chunks:
            self._arrived.clear()
            await self._arrived.wait()
        self._left -= 1
        return self._chunks.popleft()

    def satisfy(self) -> None:
        pass

    async def aclose(self) -> None:
        self._left = 0
        self._lane.leave(self)

    def step(self) -> bool:
        """One more token; false when it was the last."""
        self._chunks.append(self._lane.chunk(self._request, self._place))
        self._place += 1
        self._arrived.set()
        return self._place < self._last


if TYPE_CHECKING:
    _lane: type[Lane] = InstantLane
