"""The contract of `Lane`, for every implementation in `RIGS`.

The lanes of a rig are started once for the whole suite, so every test leaves them ready and empty.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from streamserve.errors import LaneLost
from streamserve.protocols import Lane, TokenStream
from streamserve.signals import DepthControl, DepthMode
from streamserve.types import Chunk, Finish, LaneState, Prefilled
from tests.contract.rig import RIGS, Rig
from tests.contract.vllm_rig import vllm_rig
from tests.fakes import ticks

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 30.0
LONG_TOKENS = 200


ALL_RIGS = {**RIGS, "vllm": vllm_rig}


@pytest_asyncio.fixture(
    params=["fake", "sim", pytest.param("vllm", marks=[pytest.mark.live, pytest.mark.timeout(300)])],
    scope="module",
    loop_scope="module",
)
async def shared_rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with ALL_RIGS[request.param]() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared_rig: Rig) -> AsyncIterator[Rig]:
    yield shared_rig
    await asyncio.wait_for(shared_rig.settled(), WAIT_S)
    assert [lane.signals().state for lane in (shared_rig.prefill, shared_rig.decode)] == [LaneState.READY] * 2


async def read(stream: TokenStream) -> list[Chunk]:
    return [chunk async for chunk in stream]


def tokens(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


def no_progress(lane: str, stage: str) -> None:
    assert lane and stage


async def test_signals_name_the_lane_and_never_go_back_in_time(rig: Rig) -> None:
    before = rig.decode.signals()
    await read(await rig.decode.decode(rig.request("signals", 4)))
    after = rig.decode.signals()
    assert before.lane == after.lane == rig.decode.id
    assert after.at_s >= before.at_s


async def test_a_depth_control_holds_until_it_ends(rig: Rig) -> None:
    default = await reported_depth(rig)
    assert default is not None
    fixed = DepthControl(DepthMode.FIXED, depth=2)
    await rig.decode.control(fixed, ttl_s=60.0)
    assert await reported_depth(rig) == fixed
    await rig.decode.control(fixed, ttl_s=0.0)
    assert await reported_depth(rig) == default
    await rig.decode.control(fixed, ttl_s=60.0)
    await rig.decode.control(None, ttl_s=60.0)
    assert await reported_depth(rig) == default


async def reported_depth(rig: Rig) -> DepthControl | None:
    """The control in the snapshot of the decode lane's next steps."""
    await read(await rig.decode.decode(rig.request("control", 4)))
    return rig.decode.signals().depth


async def test_decode_yields_up_to_and_including_the_finish(rig: Rig) -> None:
    stream = await rig.decode.decode(rig.request("whole", 8))
    chunks = await read(stream)
    assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish is Finish.LENGTH
    assert len(tokens(chunks)) == 8
    assert [chunk.at_s for chunk in chunks] == sorted(chunk.at_s for chunk in chunks)
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


async def test_prefill_elsewhere_gives_the_same_tokens(rig: Rig) -> None:
    alone = tokens(await read(await rig.decode.decode(rig.request("alone", 8))))
    request = rig.request("handed-over", 8)
    prefilled = await rig.prefill.prefill(request)
    assert prefilled.kv is not None
    assert prefilled.kv.lane == rig.prefill.id
    assert tokens(await read(await rig.decode.decode(request, prefilled.kv))) == alone


async def test_decode_continues_after_what_was_sent(rig: Rig) -> None:
    alone = tokens(await read(await rig.decode.decode(rig.request("alone", 8))))
    request = rig.request("continued", 8)
    prefilled = await rig.prefill.prefill(request)
    sent = list(prefilled.chunk.token_ids)
    assert sent == alone[:1]
    rest = await read(await rig.decode.decode(request, prefilled.kv, sent=sent))
    assert sent + tokens(rest) == alone
    assert rest[-1].finish is Finish.LENGTH


@pytest.mark.parametrize("sent", [1, 5, 7])
async def test_decode_continues_after_what_another_lane_sent_without_its_kv(rig: Rig, sent: int) -> None:
    alone = tokens(await read(await rig.prefill.decode(rig.request("undisturbed", 8))))
    rest = await read(await rig.decode.decode(rig.request("resumed", 8), None, sent=alone[:sent]))
    assert alone[:sent] + tokens(rest) == alone
    assert rest[-1].finish is Finish.LENGTH


async def test_a_sequence_that_ends_in_prefill_has_a_finish_and_no_kv(rig: Rig) -> None:
    prefilled = await rig.prefill.prefill(rig.request("one-token", 1))
    assert prefilled.chunk.finish is Finish.LENGTH
    assert len(prefilled.chunk.token_ids) == 1
    assert prefilled.kv is None


async def test_released_kv_is_gone_and_a_second_release_is_harmless(rig: Rig) -> None:
    prefilled = await rig.prefill.prefill(rig.request("released", 8))
    assert prefilled.kv is not None
    await rig.decode.release(prefilled.kv)
    await rig.decode.release(prefilled.kv)


async def test_kv_that_was_fetched_can_be_released(rig: Rig) -> None:
    request = rig.request("fetched", 2)
    prefilled = await rig.prefill.prefill(request)
    assert prefilled.kv is not None
    assert len(await read(await rig.decode.decode(request, prefilled.kv))) > 0
    await rig.decode.release(prefilled.kv)


@pytest.mark.parametrize("chunks_read", [0, 2])
async def test_aclose_aborts_and_is_idempotent(rig: Rig, chunks_read: int) -> None:
    stream = await rig.decode.decode(rig.request("closed", LONG_TOKENS))
    for _ in range(chunks_read):
        await stream.__anext__()
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


async def test_aclose_of_a_handed_over_request_frees_both_lanes(rig: Rig) -> None:
    request = rig.request("closed-pair", LONG_TOKENS)
    prefilled = await rig.prefill.prefill(request)
    stream = await rig.decode.decode(request, prefilled.kv)
    await stream.aclose()


async def test_aclose_after_the_end_does_nothing(rig: Rig) -> None:
    stream = await rig.decode.decode(rig.request("finished", 2))
    await read(stream)
    await stream.aclose()


async def test_cancelled_prefill_leaves_nothing(rig: Rig) -> None:
    prefill: asyncio.Task[Prefilled] = asyncio.create_task(rig.prefill.prefill(rig.request("no-prefill", LONG_TOKENS)))
    await ticks(1)
    prefill.cancel()
    with pytest.raises(asyncio.CancelledError):
        await prefill


async def test_cancelled_decode_call_leaves_nothing(rig: Rig) -> None:
    decode: asyncio.Task[TokenStream] = asyncio.create_task(rig.decode.decode(rig.request("no-decode", LONG_TOKENS)))
    await ticks(1)
    decode.cancel()
    try:
        stream = await decode
    except asyncio.CancelledError:
        return
    await stream.aclose()


async def test_cancelled_read_and_aclose_leave_nothing(rig: Rig) -> None:
    stream = await rig.decode.decode(rig.request("cancelled", LONG_TOKENS))
    await stream.__anext__()
    reading: asyncio.Task[list[Chunk]] = asyncio.create_task(read(stream))
    await ticks(1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await stream.aclose()


async def test_a_killed_lane_fails_its_requests_and_comes_back(rig: Rig) -> None:
    lane = rig.decode
    restarts = lane.signals().restarts
    stream = await lane.decode(rig.request("doomed", LONG_TOKENS))
    await stream.__anext__()
    rig.kill(lane)
    reason = await asyncio.wait_for(lane.lost(), WAIT_S)
    assert reason and "\n" not in reason
    assert lane.signals().state is LaneState.LOST
    assert lane.signals().error
    with pytest.raises(LaneLost):
        await read(stream)
    await stream.aclose()
    for call in (lane.prefill, lane.decode):
        with pytest.raises(LaneLost):
            await call(rig.request("late", 4))
    await lane.start(no_progress)
    assert lane.signals().state is LaneState.READY
    assert lane.signals().error is None
    assert lane.signals().restarts == restarts + 1
    assert len(tokens(await read(await lane.decode(rig.request("again", 4))))) == 4


async def test_kv_of_a_killed_lane_does_not_stop_the_decode_lane(rig: Rig) -> None:
    request = rig.request("orphan", 4)
    prefilled = await rig.prefill.prefill(request)
    rig.kill(rig.prefill)
    await asyncio.wait_for(rig.prefill.lost(), WAIT_S)
    assert len(tokens(await read(await rig.decode.decode(request, prefilled.kv)))) == 4
    await rig.prefill.start(no_progress)


async def test_aclose_stops_the_lane_for_good_and_is_idempotent(rig: Rig) -> None:
    lane: Lane = rig.fresh()
    assert lane.signals().state is not LaneState.READY
    await lane.start(no_progress)
    assert lane.signals().state is LaneState.READY
    lost = asyncio.create_task(lane.lost())
    await lane.aclose()
    await lane.aclose()
    await ticks()
    assert lane.signals().state is LaneState.STOPPED
    assert not lost.done()
    lost.cancel()
    with pytest.raises(LaneLost):
        await lane.decode(rig.request("after-close", 4))
