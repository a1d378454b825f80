"""PipeServe: both kinds of stream pair, and nothing left behind however a request ends."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.errors import LaneLost
from streamserve.pipeserve.pipeserve import PipeServe
from streamserve.protocols import TokenStream
from streamserve.types import Chunk, Decision, Finish, KVHandle, LaneId, LaneState, Prefilled, Request
from streamserve.virtual import run
from tests.fakes import FakeLane, expected_tokens, make_request, pair, started, ticks
from tests.flaky import FlakyLane

A, B = LaneId("a"), LaneId("b")
ALONE, APART = pair("a", "a"), pair("a", "b")


class Calls:
    """Counts calls of `on_prefilled`, and remembers what each lane had been asked for by then."""

    def __init__(self, *lanes: FakeLane) -> None:
        self.lanes = lanes
        self.seen: list[list[str]] = []

    def __call__(self) -> None:
        self.seen.append([operation for lane in self.lanes for operation, _ in lane.calls if operation != "start"])


def tokens(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


async def two_lanes() -> tuple[FakeLane, FakeLane, PipeServe]:
    lanes = await started("a", "b")
    return lanes[A], lanes[B], PipeServe(lanes)


@pytest.mark.parametrize("decision", [ALONE, APART], ids=["one lane", "two lanes"])
@pytest.mark.parametrize("continuable", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 2, 5])
async def test_every_way_gives_the_same_tokens(decision: Decision, continuable: bool, max_tokens: int) -> None:
    a, b, pipeserve = await two_lanes()
    request = make_request(max_tokens=max_tokens, continuable=continuable)
    prefilled = Calls(a, b)
    chunks = [chunk async for chunk in pipeserve.stream(request, decision, prefilled)]
    assert tokens(chunks) == expected_tokens(request)
    assert [chunk.finish for chunk in chunks] == [None] * (max_tokens - 1) + [Finish.LENGTH]
    assert len(prefilled.seen) == 1
    assert a.idle and b.idle
    assert ("abort", "r") not in a.calls + b.calls


async def test_one_lane_reports_prefilled_at_its_first_chunk() -> None:
    a, b, pipeserve = await two_lanes()
    a.hold("token")
    prefilled = Calls(a)
    stream = pipeserve.stream(make_request(max_tokens=2), ALONE, prefilled)
    reading = asyncio.create_task(anext(stream))
    await ticks()
    assert prefilled.seen == []
    a.step("token")
    await reading
    assert len(prefilled.seen) == 1
    assert b.calls == [("start", "b")]
    await stream.aclose()


async def test_prefilled_is_reported_before_the_decode_lane_is_asked() -> None:
    a, b, pipeserve = await two_lanes()
    prefilled = Calls(a, b)
    await anext(stream := pipeserve.stream(make_request(continuable=True), APART, prefilled))
    assert prefilled.seen == [["prefill"]]
    await stream.aclose()


async def test_the_decode_lane_has_the_request_before_the_first_token_goes_out() -> None:
    a, b, pipeserve = await two_lanes()
    b.hold("submit", "token")
    stream = pipeserve.stream(request := make_request(continuable=True), APART, Calls())
    reading = asyncio.create_task(anext(stream))
    await ticks()
    assert b.waiting("submit") == 1
    assert not reading.done()
    b.step("submit")
    assert tokens([await reading]) == expected_tokens(request)[:1]
    await stream.aclose()
    assert a.idle and b.idle


async def test_a_sequence_that_stops_in_prefill_never_reaches_the_decode_lane() -> None:
    lanes = await started("a", "b", stop_after=1)
    stream = PipeServe(lanes).stream(make_request(max_tokens=9), APART, Calls())
    assert [chunk.finish async for chunk in stream] == [Finish.STOP]
    assert ("decode", "r") not in lanes[B].calls
    assert lanes[A].idle


async def test_kv_held_for_a_sequence_that_stops_in_prefill_is_released_before_its_end_is_told() -> None:
    class HoldingLane(FakeLane):
        async def prefill(self, request: Request) -> Prefilled:
            prefilled = await super().prefill(request)
            self.held[99] = request.id
            return Prefilled(prefilled.chunk, KVHandle(self.id, {"owner": self, "key": 99}))

    a, b = HoldingLane("a", stop_after=1), FakeLane("b")
    for lane in (a, b):
        await lane.start(lambda lane, stage: None)
    stream = PipeServe({A: a, B: b}).stream(make_request(max_tokens=9, continuable=True), APART, prefilled := Calls())
    chunk = await anext(stream)
    assert (chunk.finish, len(prefilled.seen)) == (Finish.STOP, 1)
    assert [chunk async for chunk in stream] == []
    assert not a.held
    assert ("decode", "r") not in b.calls


async def test_streams_touch_no_lane_before_the_first_read_nor_when_closed_unread() -> None:
    a, b, pipeserve = await two_lanes()
    stream = pipeserve.stream(make_request(), APART, Calls())
    await ticks()
    await stream.aclose()
    await stream.aclose()
    assert [len(lane.calls) for lane in (a, b)] == [1, 1]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize("how", ["cancel", "aclose"])
@pytest.mark.parametrize(
    ("decision", "point"),
    [(ALONE, "submit"), (ALONE, "token"), (APART, "prefill"), (APART, "submit"), (APART, "token")],
    ids=["alone-submit", "alone-token", "apart-prefill", "apart-submit", "apart-token"],
)
async def test_ending_a_read_at_any_point_leaves_nothing(decision: Decision, point: str, how: str) -> None:
    a, b, pipeserve = await two_lanes()
    for lane in (a, b):
        lane.hold(point)
    stream = pipeserve.stream(make_request(continuable=False), decision, Calls())
    reading = asyncio.create_task(anext(stream))
    await ticks()
    if how == "cancel":
        reading.cancel()
    else:
        await stream.aclose()
        assert a.idle and b.idle
    with pytest.raises(asyncio.CancelledError if how == "cancel" else StopAsyncIteration):
        await reading
    assert a.idle and b.idle
    await stream.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("chunks_read", [1, 2])
@pytest.mark.parametrize("decision", [ALONE, APART], ids=["one lane", "two lanes"])
async def test_closing_between_chunks_aborts_on_the_lane(decision: Decision, chunks_read: int) -> None:
    a, b, pipeserve = await two_lanes()
    stream = pipeserve.stream(make_request(continuable=True), decision, Calls())
    for _ in range(chunks_read):
        await anext(stream)
    await stream.aclose()
    await stream.aclose()
    assert (a.calls + b.calls).count(("abort", "r")) == 1
    assert a.idle and b.idle


async def test_repeated_cancellation_cannot_interrupt_the_release() -> None:
    a, b, pipeserve = await two_lanes()
    b.hold("submit")
    reading = asyncio.create_task(anext(pipeserve.stream(make_request(), APART, Calls())))
    await ticks()
    while not reading.done():
        reading.cancel()
        await ticks(1)
    assert a.idle and b.idle
    assert b.calls[-1] == ("release", "a")


@pytest.mark.parametrize("error", [LaneLost("lane b is lost; retry"), RuntimeError("a bug")], ids=["lost", "bug"])
async def test_a_failed_hand_over_releases_the_kv(error: Exception) -> None:
    a, b, _ = await two_lanes()
    pipeserve = PipeServe({A: a, B: FlakyLane(b, {"decode": [error]})})
    with pytest.raises(type(error)):
        await anext(pipeserve.stream(make_request(), APART, Calls()))
    assert a.idle
    assert ("release", "a") in b.calls


async def test_kv_that_its_dead_decode_lane_cannot_release_is_not_an_error_of_its_own() -> None:
    a, b, pipeserve = await two_lanes()
    b.hold("submit")
    reading = asyncio.create_task(anext(pipeserve.stream(make_request(), APART, Calls())))
    await ticks()
    b.die("out of memory")
    with pytest.raises(LaneLost, match="out of memory"):
        await reading
    assert ("release", "a") in b.calls
    assert a.held.keys() == a.stranded


async def test_a_cancellation_stays_one_when_the_decode_lane_has_died_too() -> None:
    a, b, pipeserve = await two_lanes()
    b.hold("submit")
    reading = asyncio.create_task(anext(pipeserve.stream(make_request(), APART, Calls())))
    await ticks()
    reading.cancel()
    b.die()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert a.held.keys() == a.stranded


async def test_a_raising_callback_releases_the_kv() -> None:
    a, b, pipeserve = await two_lanes()

    def broken() -> None:
        raise ValueError("a bug in the caller")

    with pytest.raises(ValueError, match="a bug in the caller"):
        await anext(pipeserve.stream(make_request(), APART, broken))
    assert a.idle and b.idle


@pytest.mark.parametrize("decision", [APART, pair("b", "b")], ids=["two lanes", "one lane"])
async def test_what_was_sent_is_continued_by_the_decode_lane_alone(decision: Decision) -> None:
    a, b, pipeserve = await two_lanes()
    request = make_request(max_tokens=5, continuable=True)
    prefilled = Calls(a, b)
    sent = expected_tokens(request)[:3]
    chunks = [chunk async for chunk in pipeserve.stream(request, decision, prefilled, sent)]
    assert sent + tokens(chunks) == expected_tokens(request)
    assert chunks[-1].finish is Finish.LENGTH
    assert prefilled.seen == [["decode"]]
    assert a.calls == [("start", "a")]
    assert b.idle


@pytest.mark.parametrize("lane", ["a", "b"])
async def test_a_lane_that_dies_fails_its_stream(lane: str) -> None:
    a, b, pipeserve = await two_lanes()
    point = "prefill" if lane == "a" else "token"
    victim = a if lane == "a" else b
    victim.hold(point)
    reading = asyncio.create_task(anext(pipeserve.stream(make_request(), APART, Calls())))
    await ticks()
    victim.die("out of memory")
    with pytest.raises(LaneLost, match=f"lane {lane}.*out of memory"):
        await reading
    assert a.idle and b.idle


@pytest.mark.parametrize(
    ("asked", "decided", "cap"), [(None, None, None), (3, None, 3), (None, 2, 2), (3, 2, 2), (1, 2, 1), (0, 2, 0)]
)
async def test_the_tighter_cap_on_depth_wins(asked: int | None, decided: int | None, cap: int | None) -> None:
    caps: list[int | None] = []

    class NotingLane(FakeLane):
        async def decode(self, request: Request, kv: KVHandle | None = None, sent: Sequence[int] = ()) -> TokenStream:
            caps.append(request.max_depth)
            return await super().decode(request, kv, sent)

    lane = NotingLane("a")
    await lane.start(lambda lane, stage: None)
    stream = PipeServe({A: lane}).stream(make_request(max_depth=asked), replace(ALONE, max_depth=decided), Calls(lane))
    _ = [chunk async for chunk in stream]
    assert caps == [cap]


async def test_signals_are_every_lane_s() -> None:
    a, b, pipeserve = await two_lanes()
    b.die("out of memory")
    assert {lane: snapshot.state for lane, snapshot in pipeserve.signals().items()} == {
        A: LaneState.READY,
        B: LaneState.LOST,
    }


@given(
    apart=st.booleans(),
    sent=st.none() | st.integers(0, 5),
    max_tokens=st.integers(1, 6),
    stop_after=st.none() | st.integers(1, 6),
    turns=st.integers(0, 25),
    how=st.sampled_from(["cancel", "aclose", "die a", "die b"]),
)
def test_whatever_happens_in_any_turn_of_the_loop_leaves_nothing(
    apart: bool, sent: int | None, max_tokens: int, stop_after: int | None, turns: int, how: str
) -> None:
    async def main() -> None:
        lanes = await started("a", "b", stop_after=stop_after)
        request = make_request(max_tokens=max_tokens, continuable=sent is not None)
        prefilled = Calls()
        expected = expected_tokens(request, stop_after)
        received = expected[:-1][: sent or 0]
        stream = PipeServe(lanes).stream(request, APART if apart else ALONE, prefilled, tuple(received))

        async def consume() -> None:
            async for chunk in stream:
                received.extend(chunk.token_ids)

        reading = asyncio.create_task(consume())
        await ticks(turns)
        if how == "cancel":
            reading.cancel()
        elif how == "aclose":
            await stream.aclose()
            assert all(lane.idle for lane in lanes.values())
        else:
            lanes[LaneId(how[-1])].die()
        (outcome,) = await asyncio.gather(reading, return_exceptions=True)
        assert outcome is None or isinstance(outcome, LaneLost | asyncio.CancelledError)
        assert received == expected[: len(received)]
        assert len(prefilled.seen) <= 1
        assert all(lane.idle for lane in lanes.values())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
