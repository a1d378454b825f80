"""Conservation: whatever happens, in whatever order, every request ends once and leaves nothing behind."""

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.clock import now
from streamserve.errors import ServeError
from streamserve.protocols import TokenStream
from streamserve.types import Finish, Request, Slo
from streamserve.virtual import run
from tests.fakes import expected_tokens, make_request, ticks
from tests.scheduler.rack import Rack

LANES = "abcd"
PAIRS = (("a", "b"), ("c", "d"), ("d", "d"))

lane = st.sampled_from(LANES)
point = st.sampled_from(["prefill", "submit", "token", "start"])
number = st.integers(0, 30)

events = st.one_of(
    st.tuples(
        st.just("arrive"),
        st.integers(1, 12),
        st.booleans(),
        st.booleans(),
        st.integers(-1, 1),
        st.none() | st.floats(0.1, 9.0),
    ),
    st.tuples(st.just("cancel"), number),
    st.tuples(st.just("close"), number),
    st.tuples(st.just("die"), lane),
    st.tuples(st.just("hold"), lane, point),
    st.tuples(st.just("step"), lane, point),
    st.tuples(st.just("free"), lane),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("pause"), st.floats(0.1, 3.0)),
)


@dataclass
class Client:
    """Reads one request, and remembers what it got."""

    request: Request
    stream: TokenStream
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    reading: bool = False

    async def read(self) -> None:
        self.reading = True
        async for chunk in self.stream:
            self.tokens.extend(chunk.token_ids)
            self.finish = chunk.finish


class Story:
    """One random run of the scheduler."""

    def __init__(self, rack: Rack) -> None:
        self.rack = rack
        self.clients: list[Client] = []
        self.readers: list[asyncio.Task[None]] = []
        self.closing: list[asyncio.Task[None]] = []

    async def play(self, name: str, *details: object) -> None:
        await getattr(self, name)(*details)

    async def arrive(
        self, max_tokens: int, continuable: bool, splittable: bool, priority: int, ttft_s: float | None
    ) -> None:
        n = len(self.clients)
        request = make_request(
            f"r{n}",
            range(n + 1),
            max_tokens,
            arrived_s=now(),
            continuable=continuable,
            splittable=splittable,
            priority=priority,
            slo=Slo(ttft_s),
        )
        client = Client(request, self.rack.serve(request))
        self.clients.append(client)
        self.readers.append(asyncio.create_task(client.read()))

    async def cancel(self, n: int) -> None:
        if self.readers:
            self.readers[n % len(self.readers)].cancel()

    async def close(self, n: int) -> None:
        if self.clients:
            self.closing.append(asyncio.create_task(self.clients[n % len(self.clients)].stream.aclose()))

    async def die(self, lane: str) -> None:
        self.rack[lane].die()

    async def hold(self, lane: str, point: str) -> None:
        self.rack[lane].hold(point)

    async def step(self, lane: str, point: str) -> None:
        self.rack[lane].step(point)

    async def free(self, lane: str) -> None:
        self.rack[lane].free()

    async def turns(self, n: int) -> None:
        await ticks(n)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def end(self, shut_down: bool) -> None:
        """Let everything run out, or shut the scheduler down under it."""
        if shut_down:
            await self.rack.scheduler.close()
        for lane in self.rack.lanes.values():
            lane.free()
        outcomes = await asyncio.gather(*self.readers, *self.closing, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, ServeError | asyncio.CancelledError), repr(outcome)
        # Whoever was cancelled before the first read has a stream that nobody else will close.
        for client in self.clients:
            if not client.reading:
                await client.stream.aclose()

    async def check(self) -> None:
        await self.rack.assert_empty()
        self.rack.scheduler.check(PLACES + ROOM)
        results = {result.request_id: result for result in self.rack.results}
        assert len(results) == len(self.rack.results)
        assert results.keys() == {client.request.id for client in self.clients}
        for client in self.clients:
            expected = expected_tokens(client.request)
            assert client.tokens == expected[: len(client.tokens)]
            if client.finish is not None:
                assert client.tokens == expected
                assert results[client.request.id].finish is client.finish
                assert results[client.request.id].output_tokens == len(expected)
            result = results[client.request.id]
            assert result.attempts <= MAX_ATTEMPTS
            assert (result.attempts == 0) == (result.dispatched_s is None) == (result.decision is None)
            assert client.request.splittable or result.decision is None or not result.decision.disaggregated


PLACES, ROOM, MAX_ATTEMPTS = 3, 4, 3


backlogs = st.sampled_from([None, 0.0, 0.003])
"""Seconds, at a millisecond per prompt token: no limit, one prompt at a time, a few short ones."""


@settings(max_examples=300, deadline=None)
@given(
    plot=st.lists(events, max_size=60),
    shut_down=st.booleans(),
    order=st.sampled_from(["fcfs", "shortest_work", "slack"]),
    backlog_s=backlogs,
)
def test_every_request_ends_once_and_leaves_nothing(
    plot: list[tuple[str, ...]], shut_down: bool, order: str, backlog_s: float | None
) -> None:
    async def main() -> None:
        rack = Rack(
            PAIRS,
            max_dispatched=PLACES,
            max_queued=ROOM,
            max_attempts=MAX_ATTEMPTS,
            router="least_loaded",
            order=order,
            backlog_s=backlog_s,
        )
        async with rack:
            story = Story(rack)
            for event in plot:
                await story.play(*event)
            await story.end(shut_down)
            if not shut_down:
                await story.check()
        if shut_down:
            assert sorted(result.request_id for result in rack.results) == sorted(
                client.request.id for client in story.clients
            )
            await rack.assert_empty()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    step_tokens=st.lists(st.integers(1, 4), min_size=len(LANES), max_size=len(LANES)),
    named=st.booleans(),
    deaths=st.lists(st.tuples(lane, st.integers(0, 8)), max_size=30),
    backlog_s=backlogs,
)
def test_whichever_lanes_die_continuable_requests_come_out_whole(
    lengths: list[int],
    step_tokens: list[int],
    named: bool,
    deaths: list[tuple[str, int]],
    backlog_s: float | None,
) -> None:
    async def main() -> None:
        async with Rack(PAIRS, max_attempts=len(deaths) + 1, router="least_loaded", backlog_s=backlog_s) as rack:
            for id, tokens in zip(LANES, step_tokens, strict=True):
                rack[id].step_tokens, rack[id].named = tokens, named
            requests = [
                make_request(f"r{n}", range(n + 1), length, continuable=True) for n, length in enumerate(lengths)
            ]
            reading = [rack.read(request) for request in requests]
            for id, turns in deaths:
                await ticks(turns)
                rack[id].die()
            assert await asyncio.gather(*reading) == [expected_tokens(request) for request in requests]
            assert [result.error for result in rack.results] == [None] * len(requests)
            await rack.assert_empty()

    run(main())
