"""Streams over generators: whoever closes them, whenever, what they hold is freed once."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from streamserve.errors import LaneLost, Stopping
from streamserve.stream import Stream, settle
from streamserve.types import Chunk, Finish
from tests.fakes import ticks


class Source:
    """A generator of chunks that waits for `go` before each, and what became of it."""

    def __init__(self, chunks: int = 3) -> None:
        self.chunks = chunks
        self.go = asyncio.Semaphore(0)
        self.log: list[str] = []
        self.ends: list[BaseException | None] = []

    async def generate(self) -> AsyncGenerator[Chunk, None]:
        self.log.append("opened")
        try:
            for n in range(1, self.chunks + 1):
                await self.go.acquire()
                yield Chunk((n,), 0.0, Finish.STOP if n == self.chunks else None)
        finally:
            await settle(self.free())

    async def free(self) -> None:
        await ticks(3)
        self.log.append("freed")

    def stream(self) -> Stream:
        return Stream(self.generate(), self.ends.append)

    def release(self, n: int) -> None:
        for _ in range(n):
            self.go.release()


async def test_what_is_held_is_freed_before_the_finish_comes_out() -> None:
    source = Source(chunks=2)
    source.release(2)
    stream = source.stream()
    assert (await anext(stream)).finish is None
    assert source.log == ["opened"]
    assert (await anext(stream)).finish is Finish.STOP
    assert source.log == ["opened", "freed"]
    assert source.ends == [None]
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    await stream.aclose()
    assert source.ends == [None]


async def test_closing_before_the_first_read_ends_it_without_opening() -> None:
    source = Source()
    stream = source.stream()
    await stream.aclose()
    await stream.aclose()
    assert (source.log, source.ends) == ([], [None])
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_closing_between_reads_frees() -> None:
    source = Source()
    source.release(1)
    stream = source.stream()
    await anext(stream)
    await stream.aclose()
    assert (source.log, source.ends) == (["opened", "freed"], [None])


async def test_closing_ends_the_read_that_waits_in_another_task() -> None:
    source = Source()
    stream = source.stream()

    async def consume() -> str:
        chunks = [chunk async for chunk in stream]
        await ticks(3)
        return f"{len(chunks)} chunks, then went on"

    reader = asyncio.create_task(consume())
    await ticks()
    await asyncio.gather(stream.aclose(), stream.aclose())
    assert (source.log, source.ends) == (["opened", "freed"], [None])
    assert await reader == "0 chunks, then went on"
    assert reader.cancelling() == 0


async def test_every_close_returns_only_when_all_is_freed() -> None:
    source = Source()
    source.release(1)
    stream = source.stream()
    await anext(stream)

    async def close() -> list[str]:
        await stream.aclose()
        return list(source.log)

    first, second = await asyncio.gather(close(), close())
    assert first == second == ["opened", "freed"]


async def test_the_end_is_reported_once_even_to_a_listener_that_raises() -> None:
    source = Source(chunks=1)
    source.release(1)

    def broken(error: BaseException | None) -> None:
        source.ends.append(error)
        raise ValueError("a bug in the caller")

    with pytest.raises(ValueError, match="a bug in the caller"):
        await anext(Stream(source.generate(), broken))
    assert source.ends == [None]


@pytest.mark.parametrize("reading", [True, False])
async def test_closing_with_an_error_makes_reading_raise_it(reading: bool) -> None:
    source = Source()
    stream = source.stream()
    error = Stopping("shutting down; retry later")
    reader = asyncio.create_task(anext(stream)) if reading else None
    await ticks()
    await stream.aclose(error)
    assert source.ends == [error]
    with pytest.raises(Stopping):
        await (reader or anext(stream))


async def test_a_cancelled_read_frees_and_ends_the_stream() -> None:
    source = Source()
    stream = source.stream()
    reader = asyncio.create_task(anext(stream))
    await ticks()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert source.log == ["opened", "freed"]
    assert [type(end) for end in source.ends] == [asyncio.CancelledError]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize("close_first", [True, False])
async def test_a_cancellation_from_outside_is_not_taken_for_the_close_beside_it(close_first: bool) -> None:
    source = Source()
    stream = source.stream()
    reader = asyncio.create_task(anext(stream))
    await ticks()
    if close_first:
        closing = asyncio.create_task(stream.aclose())
        await ticks(1)
        reader.cancel()
    else:
        reader.cancel()
        closing = asyncio.create_task(stream.aclose())
    with pytest.raises(asyncio.CancelledError):
        await reader
    await closing
    assert source.log == ["opened", "freed"]
    assert len(source.ends) == 1


async def test_an_error_of_the_generator_is_raised_once_and_reported() -> None:
    error = LaneLost("lane a is lost; retry")

    async def failing() -> AsyncGenerator[Chunk, None]:
        yield Chunk((1,), 0.0)
        raise error

    ends: list[BaseException | None] = []
    stream = Stream(failing(), ends.append)
    await anext(stream)
    with pytest.raises(LaneLost):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert ends == [error]


async def test_a_generator_that_loses_the_cancellation_is_closed_all_the_same() -> None:
    log: list[str] = []

    async def deaf() -> AsyncGenerator[Chunk, None]:
        try:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("lost a cancellation")
            yield Chunk((1,), 0.0)
        finally:
            log.append("freed")

    stream = Stream(deaf())
    reader = asyncio.create_task(anext(stream))
    await ticks()
    await stream.aclose()
    assert log == ["lost a cancellation", "freed"]
    with pytest.raises(StopAsyncIteration):
        await reader
    assert reader.cancelling() == 0


async def test_a_cancelled_close_still_frees() -> None:
    source = Source()
    source.release(1)
    stream = source.stream()
    await anext(stream)
    closing = asyncio.create_task(stream.aclose())
    for _ in range(4):
        await ticks(1)
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert source.log == ["opened", "freed"]
    assert len(source.ends) == 1


async def test_settle_finishes_under_repeated_cancellation_and_then_raises_it() -> None:
    log: list[str] = []

    async def cleanup() -> None:
        await ticks(5)
        log.append("done")

    task = asyncio.create_task(settle(cleanup()))
    while not task.done():
        await ticks(1)
        task.cancel()
    assert log == ["done"]
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_settle_raises_what_the_cleanup_raises() -> None:
    async def cleanup() -> None:
        raise LaneLost("lane a is lost; retry")

    with pytest.raises(LaneLost):
        await settle(cleanup())
