"""Instant lanes: as many tokens as asked for, in common steps, whole or in two hops, through the scheduler too."""

import asyncio
from typing import Any

from streamserve import virtual
from streamserve.bench.instant import InstantLane, Steps
from streamserve.bench.instant_server import Straight, serving
from streamserve.build import assemble
from streamserve.clock import now
from streamserve.config import Config, LaneConfig
from streamserve.protocols import TokenStream
from streamserve.types import Chunk, Decision, Finish, LaneId, LaneState, Request, Result
from tests.fakes import make_request


def noted(request_id: str, token_ids: list[int], finished: bool) -> Any:
    return request_id, token_ids, finished


def lanes(*ids: str, interval_s: float = 0.0) -> list[InstantLane]:
    return [InstantLane(LaneId(id), noted, interval_s) for id in ids]


async def read(stream: TokenStream) -> list[Chunk]:
    return [chunk async for chunk in stream]


def tokens(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


async def test_a_request_gets_all_its_tokens_one_per_chunk() -> None:
    (lane,) = lanes("a")
    chunks = await read(await lane.decode(make_request(max_tokens=3)))
    assert [chunk.finish for chunk in chunks] == [None, None, Finish.LENGTH]
    assert len(set(tokens(chunks))) == 3
    assert [chunk.output for chunk in chunks] == [noted("r", list(c.token_ids), c.finish is not None) for c in chunks]
    assert {chunk.lane for chunk in chunks} == {"a"}
    assert lane.signals().running == 0


async def test_two_hops_give_the_tokens_of_one() -> None:
    first, second = lanes("a", "b")
    request = make_request(max_tokens=4)
    prefilled = await first.prefill(request)
    assert prefilled.kv is not None
    rest = await read(await second.decode(request, prefilled.kv, prefilled.chunk.token_ids))
    whole = await read(await second.decode(request))
    assert [*prefilled.chunk.token_ids, *tokens(rest)] == tokens(whole)
    assert first.signals().running == second.signals().running == 0


async def test_a_prefill_whose_token_is_the_last_leaves_nothing_to_fetch() -> None:
    prefilled = await lanes("a")[0].prefill(make_request(max_tokens=1))
    assert (prefilled.kv, prefilled.chunk.finish) == (None, Finish.LENGTH)


async def test_a_closed_stream_leaves_its_lane() -> None:
    (lane,) = lanes("a")
    stream = await lane.decode(make_request(max_tokens=1000))
    await anext(stream)
    assert lane.signals().running == 1
    await stream.aclose()
    assert lane.signals().running == 0
    assert await read(stream) == []


def test_all_streams_share_the_steps() -> None:
    async def run() -> list[list[float]]:
        (lane,) = lanes("a", interval_s=0.5)
        requests = [make_request(str(place), max_tokens=3) for place in range(4)]
        streams = [await lane.decode(request) for request in requests]
        begun_s = now()
        return [[chunk.at_s - begun_s for chunk in chunks] for chunks in await asyncio.gather(*map(read, streams))]

    assert virtual.run(run()) == [[0.5, 1.0, 1.5]] * 4


async def test_steps_end_with_the_last_stream_and_begin_with_the_next() -> None:
    class Short:
        left = 2

        def step(self) -> bool:
            self.left -= 1
            return self.left > 0

    steps = Steps(0.0)
    for _ in range(2):
        short = Short()
        steps.join(short)
        while len(steps):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert short.left == 0


async def test_streamserve_serves_from_them() -> None:
    config = Config([LaneConfig(LaneId("a")), LaneConfig(LaneId("b"))])
    results: list[Result] = []
    ready = assemble(config, lanes("a", "b"), results.append)
    await ready.start(lambda lane, stage: None)
    decisions: list[Decision] = []
    chunks = await read(ready.scheduler.serve(arrived("r", 5), decisions.append))
    await ready.aclose()
    assert len(tokens(chunks)) == 5
    assert len(decisions) == 1
    assert [(result.finish, result.output_tokens) for result in results] == [(Finish.LENGTH, 5)]


async def test_straight_ones_take_turns_and_decide_nothing() -> None:
    config = Config([LaneConfig(LaneId("a")), LaneConfig(LaneId("b"))])
    results: list[Result] = []
    ready = serving(config, lanes("a", "b"), results.append, None)
    await ready.start(lambda lane, stage: None)
    assert isinstance(ready.scheduler, Straight)
    assert {lane.state for lane in ready.scheduler.signals().lanes.values()} == {LaneState.READY}
    decisions: list[Decision] = []
    served = [await read(ready.scheduler.serve(arrived(id, 2), decisions.append)) for id in ("r", "s")]
    await ready.aclose()
    assert [chunks[0].lane for chunks in served] == ["a", "b"]
    assert [len(chunks) for chunks in served] == [2, 2]
    assert (decisions, results) == ([], [])


def arrived(id: str, max_tokens: int) -> Request:
    return make_request(id, max_tokens=max_tokens, arrived_s=now())
