"""A lane in memory, and the values that tests are made of."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from itertools import count
from typing import Any

from streamserve.clock import now
from streamserve.errors import LaneLost, NotSpeculating
from streamserve.protocols import Progress, TokenStream
from streamserve.signals import DepthControl, LaneSignals
from streamserve.types import Chunk, Decision, Finish, KVHandle, LaneId, LaneState, Prefilled, Request


def make_request(id: str = "r", prompt: Sequence[int] = (1, 2, 3), max_tokens: int = 4, **fields: Any) -> Request:
    return Request(id, tuple(prompt), max_tokens, **{"arrived_s": 0.0, **fields})


def pair(prefill: str, decode: str) -> Decision:
    return Decision(LaneId(prefill), LaneId(decode), router="test", reason="the test says so")


def expected_tokens(request: Request, stop_after: int | None = None) -> list[int]:
    """What any `FakeLane` generates for the request."""
    return [_token(request, position) for position in range(min(request.max_tokens, stop_after or request.max_tokens))]


def _token(request: Request, position: int) -> int:
    return (31 * sum(request.prompt_token_ids) + 7 * request.prompt_tokens + 13 * position) % 32_000


class FakeLane:
    """A lane whose engine is a few dictionaries.

    Its work passes four points: "start", "prefill", "submit" (a decode is accepted) and "token". Each takes one turn of
    the loop, unless the test holds the point; then each `step` lets one waiter through. `running` and `held` show what
    is left on it; `stranded` is the KV that nobody could release because the lane that was to fetch it had died, which
    a real owner frees by its time-out. `stop_after`: the model stops by itself after this many tokens. `step_tokens`:
    how many tokens a decode step makes. `named`: whether its losses say whose they are. `default_depth`: the control it
    goes back to, None = it does not speculate.
    """

    def __init__(self, id: str = "lane-0", stop_after: int | None = None) -> None:
        self.id = LaneId(id)
        self.stop_after = stop_after
        self.step_tokens = 1
        self.named = True
        self.default_depth: DepthControl | None = DepthControl()
        self._depth: DepthControl | None = None
        self._depth_ends_s = 0.0
        self.state = LaneState.STARTING
        self.calls: list[tuple[str, str]] = []
        self.running: set[tuple[int, str]] = set()
        self.held: dict[int, str] = {}
        self.stranded: set[int] = set()
        self.starts = 0
        self._keys = count()
        self._error: str | None = None
        self._lost = asyncio.Event()
        self._holding: set[str] = set()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    @property
    def idle(self) -> bool:
        """Whether nothing of any request is left here."""
        return not self.running and not self.held.keys() - self.stranded

    def signals(self) -> LaneSignals:
        restarts = max(0, self.starts - 1)
        depth = self._depth if self._depth is not None and now() < self._depth_ends_s else self.default_depth
        return LaneSignals(
            self.id, self.state, now(), running=len(self.running), depth=depth, restarts=restarts, error=self._error
        )

    def hold(self, *points: str) -> None:
        """From now on these points wait for `step`."""
        self._holding.update(points)

    def waiting(self, point: str) -> int:
        return sum(not future.done() for future in self._waiting[point])

    def step(self, point: str) -> bool:
        """Let the longest waiter at this point through; whether there was one."""
        while self._waiting[point]:
            future = self._waiting[point].popleft()
            if not future.done():
                future.set_result(None)
                return True
        return False

    def free(self) -> None:
        """Hold no point any more and let all waiters through."""
        self._holding.clear()
        for point in list(self._waiting):
            while self.step(point):
                pass

    def die(self, reason: str = "killed by the test") -> None:
        """Lose the engine and all that is on it, as if its process were gone."""
        self.state, self._error = LaneState.LOST, reason
        self._forget()
        self._lost.set()

    async def start(self, progress: Progress) -> None:
        self.calls.append(("start", self.id))
        self.state = LaneState.STARTING
        progress(self.id, "starting")
        await self._turn("start")
        self.starts += 1
        self._depth = None
        self.state, self._error = LaneState.READY, None
        self._lost = asyncio.Event()

    async def lost(self) -> str:
        await self._lost.wait()
        return self._error or "lost"

    async def prefill(self, request: Request) -> Prefilled:
        self.calls.append(("prefill", request.id))
        self.check()
        run = self._enter(request)
        try:
            await self._turn("prefill")
            self.check(run)
        finally:
            self.running.discard(run)
        chunk = self.chunk(request, 0)
        if chunk.finish is not None:
            return Prefilled(chunk, None)
        key = next(self._keys)
        self.held[key] = request.id
        return Prefilled(chunk, KVHandle(self.id, {"owner": self, "key": key}))

    async def decode(self, request: Request, kv: KVHandle | None = None, sent: Sequence[int] = ()) -> TokenStream:
        self.calls.append(("decode", request.id))
        # At least one token must be left: what a finished request has sent is continued by nobody.
        if list(sent) != expected_tokens(request, self.stop_after)[:-1][: len(sent)]:
            raise AssertionError(f"{request.id}: asked to continue from {sent}, which no lane has left off at")
        self.check(kv=kv)
        run = self._enter(request)
        try:
            await self._turn("submit")
            self.check(run, kv)
        except BaseException:
            self.running.discard(run)
            raise
        if kv is not None:
            kv.params["owner"].held.pop(kv.params["key"], None)
        return FakeStream(self, run, request, len(sent))

    async def release(self, kv: KVHandle) -> None:
        self.calls.append(("release", kv.lane))
        self.check(kv=kv)
        await asyncio.sleep(0)
        kv.params["owner"].held.pop(kv.params["key"], None)

    async def control(self, control: DepthControl | None, ttl_s: float) -> None:
        self.check()
        if self.default_depth is None:
            raise NotSpeculating(f"{self.id} drafts nothing")
        self.calls.append(("control", self.id))
        self._depth, self._depth_ends_s = control, now() + ttl_s

    async def aclose(self) -> None:
        if self.state is not LaneState.STOPPED:
            self.calls.append(("close", self.id))
        self.state = LaneState.STOPPED
        self._forget()

    def check(self, run: tuple[int, str] | None = None, kv: KVHandle | None = None) -> None:
        """Raises `LaneLost` if the lane takes no work or `run` was on an earlier engine."""
        if self.state is LaneState.READY and (run is None or run in self.running):
            return
        if kv is not None:
            kv.params["owner"].stranded.add(kv.params["key"])
        message = f"lane {self.id} is lost ({self._error or self.state})"
        raise LaneLost(message, lane=self.id if self.named else None)

    def chunk(self, request: Request, position: int, tokens: int = 1) -> Chunk:
        """The next so many tokens of the request, or what is left of it."""
        output = expected_tokens(request, self.stop_after)
        end = position + tokens
        finish = None
        if end >= len(output):
            finish = Finish.STOP if len(output) == self.stop_after else Finish.LENGTH
        return Chunk(tuple(output[position:end]), now(), finish)

    def _enter(self, request: Request) -> tuple[int, str]:
        run = (self.starts, request.id)
        if run in self.running:
            raise AssertionError(f"{request.id} is on lane {self.id} already")
        self.running.add(run)
        return run

    def _forget(self) -> None:
        self.running.clear()
        self.held.clear()
        for point in list(self._waiting):
            while self.step(point):
                pass

    async def _turn(self, point: str) -> None:
        if point not in self._holding:
            await asyncio.sleep(0)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[point].append(turn)
        await turn


class FakeStream:
    """The output of one request on a `FakeLane`; like a real engine's, a cancelled read does not abort the request."""

    def __init__(self, lane: FakeLane, run: tuple[int, str], request: Request, position: int) -> None:
        self._lane = lane
        self._run = run
        self._request = request
        self._position = position
        self._over = False

    def __aiter__(self) -> "FakeStream":
        return self

    async def __anext__(self) -> Chunk:
        if self._over:
            raise StopAsyncIteration
        self._lane.check(self._run)
        await self._lane._turn("token")
        self._lane.check(self._run)
        chunk = self._lane.chunk(self._request, self._position, self._lane.step_tokens)
        self._position += len(chunk.token_ids)
        if chunk.finish is not None:
            self._over = True
            self._lane.running.discard(self._run)
        return chunk

    async def aclose(self) -> None:
        if not self._over:
            self._over = True
            self._lane.calls.append(("abort", self._request.id))
            await asyncio.sleep(0)
            self._lane.running.discard(self._run)


async def started(*ids: str, stop_after: int | None = None) -> dict[LaneId, FakeLane]:
    """Fake lanes that are ready."""
    lanes = {LaneId(id): FakeLane(id, stop_after) for id in ids}
    for lane in lanes.values():
        await lane.start(lambda lane, stage: None)
    return lanes


async def ticks(n: int = 20) -> None:
    """Let everything that can run do so, for n turns of the loop."""
    for _ in range(n):
        await asyncio.sleep(0)
