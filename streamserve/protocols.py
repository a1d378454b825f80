"""The seams: what a lane, an engine and a router must do, whoever stands behind them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from streamserve.signals import DepthControl, LaneSignals, Signals
from streamserve.types import Chunk, Decision, KVHandle, LaneId, Prefilled, Request, Result

Progress = Callable[[LaneId, str], None]
"""Told of each stage of a lane's start: lane, stage in a few words."""


class TokenStream(Protocol):
    """The output of one request on one lane.

    Iterating yields `Chunk`s up to and including the one with a `finish`, then stops. Raises `LaneLost` if the engine
    dies.
    """

    def __aiter__(self) -> "TokenStream": ...

    async def __anext__(self) -> Chunk: ...

    async def aclose(self) -> None:
        """Abort what is unfinished and free it on the lane; does nothing on a finished or closed stream."""
        ...


class ServedStream(TokenStream, Protocol):
    """The output of one request, whichever lanes it visits."""

    def satisfy(self) -> None:
        """The client has all it asked for, by a stop string that no lane knows of: the request ended well."""
        ...


class Lane(Protocol):
    """One engine that can prefill, decode, or do both for a request.

    A lane outlives its engine: after `lost()` returned, `start()` brings up a new one under the same id.
    """

    @property
    def id(self) -> LaneId: ...

    def signals(self) -> LaneSignals:
        """The last snapshot; never blocks."""
        ...

    async def start(self, progress: Progress) -> None:
        """Bring the engine up; returns when it takes work. Raises `LaneStartError`."""
        ...

    async def lost(self) -> str:
        """Wait until the running engine is gone other than by `aclose`; the reason in one line."""
        ...

    async def prefill(self, request: Request) -> Prefilled:
        """Compute the prompt's KV and the first token, and hold the KV for a decode lane. Cancelling aborts.

        Raises `LaneLost`.
        """
        ...

    async def decode(self, request: Request, kv: KVHandle | None = None, sent: Sequence[int] = ()) -> TokenStream:
        """Hand the request to the engine; returns once it is submitted.

        kv: the prompt's KV on another lane, None to prefill here.
        sent: output tokens that the client already has; generation continues after them.
        Raises `LaneLost`.
        """
        ...

    async def release(self, kv: KVHandle) -> None:
        """Tell the lane that holds `kv` that nobody will fetch it."""
        ...

    async def control(self, control: DepthControl | None, ttl_s: float) -> None:
        """Set the lane's depth control from its next step on, for `ttl_s` seconds or until set again.

        None goes back to the lane's default, as the end of that time does. A restarted engine begins at its default.
        Raises `LaneLost`, and `NotSpeculating` on a lane that drafts nothing.
        """
        ...

    async def aclose(self) -> None:
        """Stop the engine and everything it started; idempotent."""
        ...


class Engine(Protocol):
    """Lanes behind one door (PipeServe; a fake in scheduler tests)."""

    def signals(self) -> Mapping[LaneId, LaneSignals]: ...

    def stream(
        self, request: Request, decision: Decision, on_prefilled: Callable[[], None], sent: Sequence[int] = ()
    ) -> TokenStream:
        """Run the request on the decision's pair; `on_prefilled` is called once, when its prefill work is done.

        sent: output tokens that the client already has; the decode lane alone computes their KV and goes on after them.
        """
        ...

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None:
        """As `Lane.control`. Raises `UnknownLane` as well."""
        ...


class Router(Protocol):
    """Chooses the stream pair: a synchronous function of a snapshot, no I/O.

    A router may keep what it has learned from earlier requests, and nothing else.
    """

    def route(self, request: Request, signals: Signals) -> Decision:
        """Where the request is dispatched at once.

        Raises `NoLane` when no lane can take it, and `Undecided` when it must be asked again later.
        """
        ...

    def learn(self, result: Result) -> None:
        """Told of every request that ended, with its last decision."""
        ...
