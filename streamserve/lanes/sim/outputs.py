"""The output of one request on a simulated lane, between the engine that makes it and the task that reads it."""

import asyncio
from collections import deque

from streamserve.errors import LaneLost
from streamserve.types import Chunk


class Outputs:
    """Chunks that were made and not read yet, and how it ended."""

    __slots__ = ("_chunks", "_error", "_over", "_waiting")

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._error: LaneLost | None = None
        self._over = False

    def put(self, chunk: Chunk) -> None:
        """A chunk for the reader; does nothing once it is closed."""
        if not self._over:
            self._chunks.append(chunk)
            self._wake()

    def fail(self, error: LaneLost) -> None:
        """The lane is gone; what was put is read first."""
        self._error = error
        self._wake()

    async def next(self) -> Chunk | None:
        """The next chunk, None at the end. Raises `LaneLost`."""
        while not self._over:
            if self._chunks:
                chunk = self._chunks.popleft()
                if chunk.finish is not None:
                    self._over = True
                return chunk
            if self._error is not None:
                raise self._error
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return None

    def close(self) -> None:
        """Nobody reads any more."""
        self._over = True
        self._chunks.clear()
        self._wake()

    @property
    def over(self) -> bool:
        """Whether it was read to its end, or closed."""
        return self._over

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
