"""StreamScheduler when lanes die: starting again, waiting for a lane, resuming mid-stream, and when to give up."""

import asyncio
from collections.abc import Callable

import pytest

from streamserve.clock import now
from streamserve.errors import LaneLost, NoLane
from streamserve.signals import LaneLoad
from streamserve.types import Finish, LaneId
from streamserve.virtual import run
from tests.fakes import FakeLane, expected_tokens, make_request, ticks
from tests.flaky import FlakyLane
from tests.scheduler.rack import Rack, read

ONE_PAIR = (("a", "b"),)
LOST = LaneLost("lane b is lost; retry")


async def test_a_lane_that_dies_before_the_first_chunk_is_invisible() -> None:
    async with Rack() as rack:
        rack["a"].hold("prefill")
        reading = rack.read(request := make_request())
        await ticks()
        rack["a"].die()
        assert await reading == expected_tokens(request)
        assert rack.chosen == [("a", "b"), ("c", "d")]
        (result,) = rack.results
        assert (result.attempts, result.finish, result.decision) == (2, Finish.LENGTH, rack.decisions[1])
        await rack.assert_empty()


def flaky_b(*losses: Exception | None) -> Callable[[FakeLane], FlakyLane]:
    return lambda lane: FlakyLane(lane, {"chunk": losses} if lane.id == "b" else {})


async def test_a_lane_that_failed_the_request_is_avoided_even_when_it_is_ready_again() -> None:
    pairs = (("a", "b"), ("c", "b"), ("c", "d"))
    async with Rack(pairs, flaky_b(LOST)) as rack:
        assert await read(rack.serve(make_request())) == expected_tokens(make_request())
        assert rack.chosen == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("named", [True, False], ids=["it says so", "its state says so"])
async def test_only_the_lane_that_died_is_avoided(named: bool) -> None:
    async with Rack((("a", "b"), ("a", "d"), ("c", "d"))) as rack:
        rack["b"].named = named
        rack["b"].hold("token")
        reading = rack.read(make_request())
        await ticks()
        rack["b"].die()
        await reading
        assert rack.chosen == [("a", "b"), ("a", "d")]


@pytest.mark.parametrize(
    ("loss", "second"),
    [(LaneLost("lane b is lost; retry", lane=LaneId("b")), ("a", "d")), (LOST, ("c", "d"))],
    ids=["named", "nameless"],
)
async def test_a_named_loss_spares_the_other_lane_of_the_pair(loss: LaneLost, second: tuple[str, str]) -> None:
    async with Rack((("a", "b"), ("a", "d"), ("c", "d")), flaky_b(loss)) as rack:
        await read(rack.serve(make_request()))
        assert rack.chosen == [("a", "b"), second]


async def test_a_lane_that_failed_the_request_is_used_again_when_no_other_is_ready() -> None:
    async with Rack(ONE_PAIR, flaky_b(LOST)) as rack:
        assert await read(rack.serve(make_request())) == expected_tokens(make_request())
        assert rack.chosen == [("a", "b"), ("a", "b")]


async def test_attempts_are_limited_and_the_error_says_what_to_do() -> None:
    async with Rack(ONE_PAIR, flaky_b(LOST, LOST, LOST), max_attempts=2) as rack:
        with pytest.raises(LaneLost, match=r"lane b is lost.*gave up after 2 attempts: retry later") as loss:
            await read(rack.serve(make_request()))
        assert loss.value.given_up
        (result,) = rack.results
        assert (result.finish, result.attempts, result.output_tokens) == (Finish.ERROR, 2, 0)
        assert result.error is not None and "gave up after 2 attempts" in result.error
        await rack.assert_empty()


@pytest.mark.parametrize("earlier", [0, 1])
async def test_a_loss_after_the_first_chunk_says_whether_attempts_are_left(earlier: int) -> None:
    async with Rack(ONE_PAIR, flaky_b(*[LOST] * earlier, None, LOST), max_attempts=2) as rack:
        with pytest.raises(LaneLost, match="1 tokens were sent already") as loss:
            await read(rack.serve(make_request()))
        assert loss.value.given_up is (earlier == 1)


def test_with_no_lane_ready_a_request_waits_for_one() -> None:
    async def main() -> None:
        async with Rack(ONE_PAIR) as rack:
            for lane in rack.lanes.values():
                lane.die()
            reading = rack.read(request := make_request())
            await ticks()
            assert rack.decisions == []
            assert await reading == expected_tokens(request)
            assert asyncio.get_running_loop().time() == 1.0
            await rack.assert_empty()

    run(main())


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("first", ["request", "lane"])
def test_a_lane_that_becomes_ready_in_any_turn_of_the_loop_is_not_missed(first: str, turns: int) -> None:
    async def main() -> None:
        async with Rack((("a", "a"),), lane_wait_s=30.0) as rack:
            rack["a"].hold("start")
            rack["a"].die()
            await asyncio.sleep(1.0)
            await ticks()
            if first == "lane":
                rack["a"].step("start")
                await ticks(turns)
            reading = rack.read(request := make_request())
            if first == "request":
                await ticks(turns)
                rack["a"].step("start")
            assert await reading == expected_tokens(request)
            assert asyncio.get_running_loop().time() == 1.0

    run(main())


def test_the_wait_for_a_lane_is_limited() -> None:
    async def main() -> None:
        async with Rack(ONE_PAIR, lane_wait_s=30.0) as rack:
            for lane in rack.lanes.values():
                lane.hold("start")
                lane.die()
            with pytest.raises(NoLane, match=r"waited 30 s for a lane: no lane is ready \(a lost, b lost\)"):
                await read(rack.serve(make_request()))
            assert asyncio.get_running_loop().time() == 30.0
            assert [(result.finish, result.attempts) for result in rack.results] == [(Finish.ERROR, 0)]
            await rack.assert_empty()

    run(main())


@pytest.mark.parametrize("how", ["cancel", "aclose"])
async def test_ending_a_request_that_waits_for_a_lane(how: str) -> None:
    async with Rack(ONE_PAIR, max_dispatched=1) as rack:
        for lane in rack.lanes.values():
            lane.hold("start")
            lane.die()
        stream = rack.serve(make_request())
        reading = asyncio.create_task(read(stream))
        await ticks()
        if how == "cancel":
            reading.cancel()
        else:
            await stream.aclose()
        await asyncio.gather(reading, return_exceptions=True)
        assert [result.finish for result in rack.results] == [Finish.ABORT]
        rack.scheduler.check()
        await rack.assert_empty()


@pytest.mark.parametrize(("continuable", "resume"), [(True, False), (False, True)], ids=["off", "sampler with state"])
async def test_a_loss_after_the_first_chunk_is_an_error_where_resuming_is_off_or_would_not_be_exact(
    continuable: bool, resume: bool
) -> None:
    async with Rack(wrap=flaky_b(None, LaneLost("lane b is lost", lane=LaneId("b"))), resume=resume) as rack:
        stream = rack.serve(make_request(continuable=continuable))
        tokens = 2 if continuable else 1
        for _ in range(tokens):
            await anext(stream)
        with pytest.raises(LaneLost, match=rf"{tokens} tokens were sent already: send the request again") as loss:
            await anext(stream)
        assert loss.value.lane == "b"
        (result,) = rack.results
        assert (result.finish, result.attempts, result.output_tokens) == (Finish.ERROR, 1, tokens)
        await rack.assert_empty()


@pytest.mark.parametrize("step_tokens", [1, 3])
@pytest.mark.parametrize("reads", [1, 2, 3])
async def test_a_continuable_request_resumes_where_its_lane_died(reads: int, step_tokens: int) -> None:
    async with Rack() as rack:
        for lane in rack.lanes.values():
            lane.step_tokens = step_tokens
        request = make_request(max_tokens=12, continuable=True)
        stream = rack.serve(request)
        sent = [token for _ in range(reads) for token in (await anext(stream)).token_ids]
        rack["b"].die()
        assert sent + await read(stream) == expected_tokens(request)
        assert rack.chosen == [("a", "b"), ("d", "d")]
        assert rack.decisions[1].reason == f"next in turn; resumes after {len(sent)} tokens"
        assert ("prefill", "r") not in rack["c"].calls
        (result,) = rack.results
        assert (result.finish, result.error, result.attempts) == (Finish.LENGTH, None, 2)
        assert (result.output_tokens, result.decision) == (12, rack.decisions[1])
        await rack.assert_empty()


async def test_a_resumed_request_prefills_its_prompt_and_what_was_sent() -> None:
    async with Rack() as rack:
        rack["d"].hold("submit", "token")
        stream = rack.serve(make_request(prompt=range(100), max_tokens=9, continuable=True))
        for _ in range(4):
            await anext(stream)
        rack["b"].die()
        reading = asyncio.create_task(read(stream))
        await ticks()
        assert rack.load[LaneId("d")] == LaneLoad(prefill_requests=1, prefill_tokens=104, decode_requests=1)
        rack["d"].step("submit")
        rack["d"].step("token")
        await ticks()
        rack["d"].step("token")
        await ticks()
        assert rack.load[LaneId("d")] == LaneLoad(decode_requests=1)
        assert set(rack.load.values()) == {LaneLoad(), LaneLoad(decode_requests=1)}
        rack["d"].free()
        assert len(await reading) == 5
        await rack.assert_empty()


def test_the_client_sees_a_pause_while_no_lane_is_ready() -> None:
    async def main() -> None:
        async with Rack((("a", "a"),)) as rack:
            stream = rack.serve(request := make_request(max_tokens=6, arrived_s=now(), continuable=True))
            sent = list((await anext(stream)).token_ids)
            rack["a"].die()
            assert sent + await read(stream) == expected_tokens(request)
            (result,) = rack.results
            assert (result.ttft_s, result.e2e_s, result.attempts) == (0.0, 1.0, 2)
            await rack.assert_empty()

    run(main())


def test_a_resumed_request_does_not_wait_for_a_lane_for_ever() -> None:
    async def main() -> None:
        async with Rack((("a", "a"),), lane_wait_s=30.0) as rack:
            stream = rack.serve(make_request(continuable=True))
            await anext(stream)
            rack["a"].hold("start")
            rack["a"].die()
            with pytest.raises(NoLane, match="waited 30 s"):
                await anext(stream)
            (result,) = rack.results
            assert (result.finish, result.attempts, result.output_tokens) == (Finish.ERROR, 1, 1)
            await rack.assert_empty()

    run(main())


async def test_a_request_resumes_as_often_as_it_has_attempts() -> None:
    async with Rack(ONE_PAIR, flaky_b(None, LOST, None, LOST, None, LOST), max_attempts=3) as rack:
        request = make_request(max_tokens=12, continuable=True)
        stream = rack.serve(request)
        got: list[int] = []
        with pytest.raises(LaneLost, match="gave up after 3 attempts"):
            async for chunk in stream:
                got.extend(chunk.token_ids)
        assert got == expected_tokens(request)[:4]
        assert rack.chosen == [("a", "b"), ("b", "b"), ("b", "b")]
        (result,) = rack.results
        assert (result.finish, result.attempts, result.output_tokens) == (Finish.ERROR, 3, 4)
        await rack.assert_empty()


async def test_after_chunks_without_tokens_a_request_starts_from_its_beginning() -> None:
    async with Rack((("a", "a"), ("c", "d"))) as rack:
        rack["a"].step_tokens = 0
        stream = rack.serve(request := make_request(continuable=True))
        assert (await anext(stream)).token_ids == ()
        rack["a"].die()
        assert await read(stream) == expected_tokens(request)
        assert rack.chosen == [("a", "a"), ("c", "d")]
        assert rack.decisions[1].reason == "next in turn"


@pytest.mark.parametrize("how", ["cancel", "aclose"])
@pytest.mark.parametrize("point", ["submit", "token"])
async def test_ending_a_request_while_it_resumes_leaves_nothing(point: str, how: str) -> None:
    async with Rack(max_dispatched=1) as rack:
        rack["d"].hold(point)
        stream = rack.serve(make_request(continuable=True))
        await anext(stream)
        rack["b"].die()
        reading = asyncio.create_task(read(stream))
        await ticks()
        assert rack["d"].waiting(point) == 1
        if how == "cancel":
            reading.cancel()
        else:
            await stream.aclose()
        await asyncio.gather(reading, return_exceptions=True)
        assert [(result.finish, result.attempts) for result in rack.results] == [(Finish.ABORT, 2)]
        await rack.assert_empty()
