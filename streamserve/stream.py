"""Token streams written as async generators, made safe to close by any task at any moment."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from streamserve.errors import ServeError
from streamserve.types import Chunk


class Stream:
    """A `ServedStream` over an async generator of chunks.

    It adds what a generator lacks. It may be closed while another task awaits its next chunk, several times, or before
    it ever ran. What the generator holds is freed before the chunk with a `finish` comes out. A cancelled read closes
    it. `on_end` is called exactly once, when everything is freed: with the error or cancellation that ended the
    stream, with what `aclose` was given, or with None.
    """

    __slots__ = ("_chunks", "_closing", "_error", "_interrupted", "_on_end", "_over", "_reader", "satisfied")

    def __init__(
        self, chunks: AsyncGenerator[Chunk, None], on_end: Callable[[BaseException | None], None] | None = None
    ) -> None:
        self.satisfied = False
        """Whether its reader has all that it asked for, though no chunk says that it is the last."""
        self._chunks = chunks
        self._on_end = on_end
        self._reader: asyncio.Task[Any] | None = None
        self._closing = False
        self._interrupted = False
        self._error: ServeError | None = None
        self._over = asyncio.Event()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Chunk:
        if self._closing:
            raise self._error or StopAsyncIteration
        reader = asyncio.current_task()
        assert reader is not None, "a stream is read inside a task"
        self._reader = reader
        cancelling = reader.cancelling()
        try:
            chunk = await self._chunks.__anext__()
            if chunk.finish is not None or self._interrupted:
                await self._last(chunk)
        except BaseException as error:
            # As in asyncio.timeout: only the cancellation that aclose() sent may end here, never one from outside.
            interrupted = self._interrupted and reader.uncancel() <= cancelling
            if interrupted and isinstance(error, asyncio.CancelledError):
                self._end(self._error)
                raise self._error or StopAsyncIteration from None
            self._end(None if isinstance(error, StopAsyncIteration) else error)
            raise
        finally:
            self._reader = None
        return chunk

    def satisfy(self) -> None:
        """Its reader needs no more and will close it."""
        self.satisfied = True

    async def aclose(self, error: ServeError | None = None) -> None:
        """Close the generator and wait until it has freed what it held; idempotent.

        error: what reading raises from now on, also in the task that is waiting for a chunk; None = just the end.
        """
        if self._closing:
            await self._over.wait()
            return
        self._closing = True
        self._error = error
        if self._reader is None:
            try:
                await self._chunks.aclose()
            finally:
                self._end(error)
        else:
            # A running generator can only be unwound by the task that runs it.
            self._interrupted = True
            self._reader.cancel()
            await self._over.wait()

    async def _last(self, chunk: Chunk) -> None:
        await self._chunks.aclose()
        if self._interrupted:
            # Somebody below lost the cancellation that aclose() sent, as asyncio.wait_for can in Python 3.11.
            raise asyncio.CancelledError
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._over.is_set():
            return
        self._closing = True
        self._over.set()
        if self._on_end is not None:
            self._on_end(error)


async def settle(cleanup: Coroutine[Any, Any, None]) -> None:
    """Await a clean-up to its end, however often the caller is cancelled meanwhile; raises the cancellation afterwards.

    A web framework cancels a disconnected client's task again and again until it ends, so that a bare `await` in its
    clean-up would never get through.
    """
    task = asyncio.create_task(cleanup)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancellation = error
    try:
        task.result()
    finally:
        if cancellation is not None:
            raise cancellation
