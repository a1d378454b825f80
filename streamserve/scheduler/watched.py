"""Watched: a scheduler whose requests are told of as they come and as they begin to be answered."""

from collections.abc import Callable
from typing import Protocol

from streamserve.protocols import ServedStream
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.signals import Signals
from streamserve.types import Chunk, Decision, Request


class Watcher(Protocol):
    """Who is told. Of ends the router is told already."""

    def arrived(self, request: Request) -> None: ...

    def began(self, request_id: str, at_s: float) -> None: ...


class Watched:
    """Serves as the scheduler does."""

    def __init__(self, scheduler: StreamScheduler, watcher: Watcher) -> None:
        self._scheduler = scheduler
        self._watcher = watcher

    def check(self, n: int = 1) -> None:
        """As `StreamScheduler.check`."""
        self._scheduler.check(n)

    def signals(self) -> Signals:
        """As `StreamScheduler.signals`."""
        return self._scheduler.signals()

    def serve(self, request: Request, on_decision: Callable[[Decision], None]) -> ServedStream:
        """As `StreamScheduler.serve`."""
        stream = self._scheduler.serve(request, on_decision)
        self._watcher.arrived(request)
        return _Watched(stream, request.id, self._watcher)


class _Watched:
    """A stream that tells of its first token."""

    def __init__(self, stream: ServedStream, request_id: str, watcher: Watcher) -> None:
        self._stream = stream
        self._request_id = request_id
        self._watcher: Watcher | None = watcher

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self._stream.__anext__()
        if self._watcher is not None and chunk.token_ids:
            self._watcher.began(self._request_id, chunk.at_s)
            self._watcher = None
        return chunk

    def satisfy(self) -> None:
        self._stream.satisfy()

    async def aclose(self) -> None:
        await self._stream.aclose()
