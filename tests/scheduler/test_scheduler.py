"""StreamScheduler: admission, routing, counting, results and shutting down."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import pytest

from streamserve.errors import LaneLost, NoLane, Overloaded, ServeError, Stopping
from streamserve.protocols import TokenStream
from streamserve.scheduler.watched import Watched
from streamserve.signals import DepthControl, LaneLoad, LaneSignals, Signals
from streamserve.stream import Stream
from streamserve.types import Chunk, Decision, Finish, LaneId, LaneState, Request, Result
from tests.fakes import expected_tokens, make_request, ticks
from tests.scheduler.rack import Rack, read

ONE_PAIR = (("a", "b"),)


async def test_a_request_is_served_counted_and_recorded() -> None:
    async with Rack() as rack:
        request = make_request(max_tokens=4, arrived_s=asyncio.get_running_loop().time(), continuable=True)
        assert await read(rack.serve(request)) == expected_tokens(request)
        (result,) = rack.results
        assert (result.request_id, result.finish, result.error) == ("r", Finish.LENGTH, None)
        assert (result.prompt_tokens, result.output_tokens, result.attempts) == (3, 4, 1)
        assert [result.decision] == rack.decisions
        assert result.ttft_s is not None
        assert 0 < result.ttft_s < result.e2e_s
        await rack.assert_empty()


async def test_load_is_counted_from_dispatch_to_prefilled_to_the_end() -> None:
    async with Rack(ONE_PAIR) as rack:
        rack["a"].hold("prefill")
        rack["b"].hold("token")
        reading = rack.read(make_request(max_tokens=2))
        await ticks()
        awaiting = LaneLoad(decode_requests=1, awaited_requests=1)
        assert rack.load == {LaneId("a"): LaneLoad(prefill_requests=1, prefill_tokens=3), LaneId("b"): awaiting}
        rack["a"].free()
        await ticks()
        assert rack.load == {LaneId("a"): LaneLoad(), LaneId("b"): LaneLoad(decode_requests=1)}
        rack["b"].free()
        await reading
        await rack.assert_empty()


async def test_requests_beyond_max_dispatched_wait_and_are_seen_as_queued() -> None:
    async with Rack(ONE_PAIR, max_dispatched=2) as rack:
        rack["a"].hold("prefill")
        reading = [rack.read(make_request(f"r{n}")) for n in range(5)]
        await ticks()
        assert rack["a"].waiting("prefill") == 2
        assert rack.scheduler.signals().queued == 3
        rack["a"].free()
        await asyncio.gather(*reading)
        assert [result.request_id for result in rack.results] == [f"r{n}" for n in range(5)]
        await rack.assert_empty()


async def test_a_full_queue_refuses_before_and_after_the_response_has_started() -> None:
    async with Rack(ONE_PAIR, max_dispatched=1, max_queued=1) as rack:
        rack["a"].hold("prefill")
        rack.scheduler.check(2)
        reading = [rack.read(make_request(f"r{n}")) for n in range(2)]
        await ticks()
        with pytest.raises(Overloaded, match=r"retry later or raise scheduler\.max_queued"):
            rack.scheduler.check()
        with pytest.raises(Overloaded):
            await read(rack.serve(make_request("refused")))
        assert [(result.request_id, result.finish) for result in rack.results] == [("refused", Finish.ERROR)]
        assert rack.results[0].decision is None
        rack["a"].free()
        await asyncio.gather(*reading)
        await rack.assert_empty()


async def test_the_place_is_free_when_the_finish_comes_out() -> None:
    async with Rack(ONE_PAIR, max_dispatched=1) as rack:
        stream = rack.serve(make_request(max_tokens=1))
        assert (await anext(stream)).finish is Finish.LENGTH
        assert len(rack.results) == 1
        await rack.assert_empty()
        await read(rack.serve(make_request("next", max_tokens=1)))
        await stream.aclose()
        assert [result.finish for result in rack.results] == [Finish.LENGTH] * 2


@pytest.mark.parametrize("how", ["cancel", "aclose"])
@pytest.mark.parametrize("where", ["queue", "prefill", "submit", "token"])
async def test_ending_a_request_anywhere_leaves_nothing_and_records_an_abort(where: str, how: str) -> None:
    async with Rack(ONE_PAIR, max_dispatched=1) as rack:
        first = None
        if where == "queue":
            rack["a"].hold("prefill")
            first = rack.read(make_request("first"))
            await ticks()
        for lane in rack.lanes.values():
            lane.hold(where)
        stream = rack.serve(make_request())
        reading = asyncio.create_task(read(stream))
        await ticks()
        assert rack.scheduler.signals().queued == (where == "queue")
        if how == "cancel":
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        else:
            await stream.aclose()
            assert await reading == []
        (result,) = rack.results
        assert (result.request_id, result.finish, result.error) == ("r", Finish.ABORT, None)
        assert result.attempts == (where != "queue")
        if first is not None:
            rack["a"].free()
            await first
        await rack.assert_empty()


async def test_closing_between_chunks_returns_when_the_lanes_are_free() -> None:
    async with Rack(ONE_PAIR) as rack:
        stream = rack.serve(make_request(continuable=True))
        await anext(stream)
        await stream.aclose()
        assert all(lane.idle for lane in rack.lanes.values())
        assert [(result.finish, result.output_tokens) for result in rack.results] == [(Finish.ABORT, 1)]
        await rack.assert_empty()


async def test_a_stream_closed_unread_is_an_abort() -> None:
    async with Rack() as rack:
        stream = rack.serve(make_request())
        await stream.aclose()
        await stream.aclose()
        assert [(result.finish, result.attempts) for result in rack.results] == [(Finish.ABORT, 0)]
        assert rack.decisions == []


@pytest.mark.parametrize("how", ["closed", "cancelled", "stopping", "finished"])
async def test_a_request_whose_reader_is_satisfied_ended_well_at_its_last_chunk(how: str) -> None:
    async with Rack(engine=LocalEngine(Chunk((1,), 5.0), Chunk((2, 3), 6.0), Chunk((4,), 7.0, Finish.LENGTH))) as rack:
        stream = Watched(rack.scheduler, _Deaf()).serve(make_request(max_tokens=100), rack.decisions.append)
        assert [(await anext(stream)).at_s for _ in range(2)] == [5.0, 6.0]
        if how == "finished":
            await anext(stream)
        stream.satisfy()
        if how == "stopping":
            await rack.scheduler.close()
        elif how == "cancelled":
            reading = asyncio.create_task(read(stream))
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await stream.aclose()
        (result,) = rack.router.learned
        expected = (Finish.LENGTH, 7.0, 4) if how == "finished" else (Finish.STOP, 6.0, 3)
        assert (result.finish, result.finished_s, result.output_tokens) == expected
        assert (result.error, result.slo_met) == (None, True)
        assert rack.scheduler._work.output_share == result.output_tokens / 100
        assert not rack.scheduler._open


class _Deaf:
    """A watcher."""

    def arrived(self, request: Request) -> None: ...

    def began(self, request_id: str, at_s: float) -> None: ...


async def test_close_ends_everything_with_stopping() -> None:
    async with Rack(ONE_PAIR, max_dispatched=2) as rack:
        rack["a"].hold("prefill")
        between_chunks = rack.serve(make_request("between-chunks", continuable=True))
        waiting_for_chunk = rack.read(make_request("waiting"))
        await ticks()
        rack["a"].free()
        rack["b"].hold("token")
        await anext(between_chunks)
        queued = rack.read(make_request("queued"))
        unread = rack.serve(make_request("unread"))
        await ticks()
        assert rack.scheduler.signals().queued == 1
        await rack.scheduler.close()
        await rack.scheduler.close()
        for pending in (anext(between_chunks), waiting_for_chunk, queued, anext(unread)):
            with pytest.raises(Stopping, match="shutting down; send the request again"):
                await pending
        for refuse in (lambda: rack.serve(make_request()), rack.scheduler.check):
            with pytest.raises(Stopping):
                refuse()
        outcomes = {result.request_id: result.finish for result in rack.results}
        assert outcomes == dict.fromkeys(["between-chunks", "waiting", "queued", "unread"], Finish.ERROR)
        assert len(rack.results) == 4
        await rack.assert_empty()


async def test_a_prompt_that_one_engine_must_read_stays_on_the_decode_lane() -> None:
    async with Rack(ONE_PAIR) as rack:
        request = make_request(splittable=False)
        assert await read(rack.serve(request)) == expected_tokens(request)
        (decision,) = rack.decisions
        assert (decision.prefill, decision.decode) == ("b", "b")
        assert decision.reason == "next in turn; its prompt must be read by one engine"
        assert rack["a"].calls == [("start", "a")]


async def test_a_prompt_that_is_on_one_lane_anyway_needs_no_other_decision() -> None:
    async with Rack((("a", "a"),)) as rack:
        await read(rack.serve(make_request(splittable=False)))
        assert [decision.reason for decision in rack.decisions] == ["next in turn"]


class LocalEngine:
    """One lane whose requests each play the same chunks."""

    def __init__(self, *chunks: Chunk) -> None:
        self.chunks = chunks

    def signals(self) -> Mapping[LaneId, LaneSignals]:
        return {LaneId("a"): LaneSignals(LaneId("a"), LaneState.READY, 0.0)}

    def stream(
        self, request: Request, decision: Decision, on_prefilled: Callable[[], None], sent: Sequence[int] = ()
    ) -> TokenStream:
        async def generate() -> AsyncGenerator[Chunk, None]:
            on_prefilled()
            for chunk in self.chunks:
                yield chunk

        return Stream(generate())

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None:
        raise AssertionError("the scheduler controls no depth")


async def test_output_that_stops_without_a_finish_is_a_loss() -> None:
    async with Rack((("a", "a"),), engine=LocalEngine(Chunk((1,), 0.0))) as rack:
        with pytest.raises(LaneLost, match="without a finish"):
            await read(rack.serve(make_request()))
        assert [(result.finish, result.lane_failed) for result in rack.results] == [(Finish.ERROR, True)]


async def test_a_chunk_without_tokens_is_not_the_first_token() -> None:
    engine = LocalEngine(Chunk((), 1.0), Chunk((7,), 2.0), Chunk((), 3.0, Finish.STOP))
    async with Rack((("a", "a"),), engine=engine) as rack:
        assert await read(rack.serve(make_request())) == [7]
        (result,) = rack.results
        assert (result.first_token_s, result.finished_s, result.output_tokens) == (2.0, 3.0, 1)


async def test_an_unexpected_error_is_raised_as_it_is_and_recorded() -> None:
    class BrokenRouter:
        def route(self, request: Request, signals: Signals) -> Decision:
            raise ZeroDivisionError

        def learn(self, result: Result) -> None: ...

    async with Rack(router=BrokenRouter()) as rack:
        with pytest.raises(ZeroDivisionError):
            await read(rack.serve(make_request()))
        (result,) = rack.results
        assert (result.finish, result.error, result.lane_failed) == (Finish.ERROR, "ZeroDivisionError", False)
        await rack.assert_empty()


@pytest.mark.parametrize("pair", [("a", "b"), ("a", "a")])
async def test_serving_starts_no_task(pair: tuple[str, str]) -> None:
    async with Rack((pair,)) as rack:
        created: list[object] = []
        loop = asyncio.get_running_loop()

        def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> "asyncio.Task[Any]":
            created.append(coro)
            return asyncio.Task(coro, loop=loop, **kwargs)

        loop.set_task_factory(factory)
        try:
            for n in range(3):
                await read(rack.serve(make_request(f"r{n}", max_tokens=9, continuable=True)))
        finally:
            loop.set_task_factory(None)
        assert created == []
        assert len(rack.results) == 3


def test_every_serving_error_has_a_status_of_its_own_kind() -> None:
    statuses = {error: int(error.status) for error in (Overloaded, NoLane, LaneLost, Stopping, ServeError)}
    assert statuses == {Overloaded: 429, NoLane: 503, LaneLost: 503, Stopping: 503, ServeError: 500}
