"""The link to an engine that is not there, and the names under which it knows requests."""

import asyncio
import gc
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol, cast

import pytest
from vllm.config import VllmConfig
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason, core_client
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor import Executor

from streamserve.errors import LaneLost
from streamserve.lanes.vllm import link
from streamserve.lanes.vllm.handshake import Addresses
from streamserve.lanes.vllm.link import EngineLink
from streamserve.types import LaneId
from tests.fakes import ticks
from tests.lanes.test_hops import make_request

LANE = LaneId("lane-0")


class Client:
    """vLLM's client, of an engine that answers each request with one token as soon as it comes."""

    def __init__(self, **_: Any) -> None:
        self.sent: list[EngineCoreRequest] = []
        self.dead = False
        self.silent = False
        self._outputs: asyncio.Queue[EngineCoreOutputs | Exception] = asyncio.Queue()

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        if self.dead:
            raise EngineDeadError
        self.sent.append(request)
        if not self.silent:
            self.answer(request, [7])

    def answer(self, request: EngineCoreRequest, tokens: list[int], reason: FinishReason | None = None) -> None:
        output = EngineCoreOutput(request.request_id, tokens, finish_reason=reason)
        self._outputs.put_nowait(EngineCoreOutputs(outputs=[output]))

    def break_off(self, error: Exception) -> None:
        self._outputs.put_nowait(error)

    async def abort_requests_async(self, ids: list[str]) -> None: ...

    async def get_output_async(self) -> EngineCoreOutputs:
        outputs = await self._outputs.get()
        if isinstance(outputs, Exception):
            raise outputs
        return outputs

    def shutdown(self) -> None: ...

    @property
    def resources(self) -> Any:
        return SimpleNamespace(ctx=SimpleNamespace(destroy=lambda linger: None))


class Linked(Protocol):
    """Makes a link to a client; options as those of `EngineLink`."""

    def __call__(
        self, on_outputs: Callable[[EngineCoreOutputs], None], **options: Any
    ) -> tuple[EngineLink, Client]: ...


@pytest.fixture
def linked(monkeypatch: pytest.MonkeyPatch) -> Linked:
    monkeypatch.setattr(link, "AsyncMPClient", Client)
    monkeypatch.setattr(Executor, "get_class", lambda _: Executor)

    def make(on_outputs: Callable[[EngineCoreOutputs], None], **options: Any) -> tuple[EngineLink, Client]:
        engine = EngineLink(LANE, cast(VllmConfig, None), Addresses(), on_outputs, **options)
        return engine, cast(Client, engine._client)

    return make


async def test_an_engine_knows_a_request_by_a_name_without_commas(linked: Linked) -> None:
    engine, client = linked(lambda _: None)
    request = make_request()
    request.request_id = "cmpl-a,b,,c-0"
    first, second = await engine.submit(request), await engine.submit(request)
    names = [sent.request_id for sent in client.sent]
    assert names == ["cmpl-a_b__c-0/0", "cmpl-a_b__c-0/1"]
    for stream in (first, second):
        chunk = await anext(stream)
        assert (chunk.token_ids, chunk.output.request_id) == ([7], request.request_id)
    await engine.close()
    await ticks()


async def test_an_engine_that_is_told_to_end_is_lost_and_no_request_of_it_ended(linked: Linked) -> None:
    """On SIGTERM vLLM's engine aborts what it runs and what comes, perhaps for as long as another lane fetches KV."""
    engine, client = linked(lambda _: None)
    streams = [await engine.submit(make_request()) for _ in range(2)]
    for stream in streams:
        assert (await anext(stream)).token_ids == [7]
    client.answer(client.sent[0], [], FinishReason.ABORT)
    for stream in streams:
        async with asyncio.timeout(1):
            with pytest.raises(LaneLost, match="lane-0"):
                await anext(stream)
    assert engine.broken
    with pytest.raises(LaneLost):
        await engine.submit(make_request())
    await asyncio.wait_for(engine.ended(), 1)
    await engine.close()


async def test_an_abort_that_its_own_client_asked_for_is_nobodys_loss(linked: Linked) -> None:
    engine, client = linked(lambda _: None)
    left, stays = await engine.submit(make_request()), await engine.submit(make_request())
    await left.aclose()
    client.answer(client.sent[0], [], FinishReason.ABORT)
    client.answer(client.sent[1], [8], FinishReason.LENGTH)
    assert [(await anext(stays)).token_ids for _ in range(2)] == [[7], [8]]
    assert not engine.broken
    await engine.close()


async def test_outputs_that_cannot_be_read_lose_the_lane_instead_of_hanging_its_requests(linked: Linked) -> None:
    engine, client = linked(lambda _: None)
    stream = await engine.submit(make_request())
    await anext(stream)
    client.break_off(ValueError("not a message"))
    async with asyncio.timeout(1):
        with pytest.raises(LaneLost, match="not a message"):
            await anext(stream)
    await engine.close()


async def test_an_output_that_cannot_be_handed_out_loses_the_lane_instead_of_hanging_its_requests(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(link.FINISH, FinishReason.LENGTH)
    engine, client = linked(lambda _: None)
    stream = await engine.submit(make_request())
    await anext(stream)
    client.answer(client.sent[0], [8], FinishReason.LENGTH)
    async with asyncio.timeout(1):
        with pytest.raises(LaneLost, match="cannot be read"):
            await anext(stream)
    await engine.close()


async def test_an_engine_that_hangs_is_lost(linked: Linked) -> None:
    engine, client = linked(lambda _: None, hang_s=0.2)
    client.silent = True
    streams = [await engine.submit(make_request()) for _ in range(2)]
    begun_s = asyncio.get_running_loop().time()
    for stream in streams:
        async with asyncio.timeout(5):
            with pytest.raises(LaneLost, match=r"lane-0 hangs.*nothing for 0.2 s"):
                await anext(stream)
    assert asyncio.get_running_loop().time() - begun_s > 0.15
    assert engine.broken and engine.hangs
    await asyncio.wait_for(engine.ended(), 1)
    await engine.close()


async def test_an_engine_that_works_or_has_nothing_to_do_does_not_hang(linked: Linked) -> None:
    engine, client = linked(lambda _: None, hang_s=0.2)
    stream = await engine.submit(make_request())
    for _ in range(5):
        await asyncio.sleep(0.08)
        client.answer(client.sent[0], [8])
        await anext(stream)
    client.answer(client.sent[0], [9], FinishReason.LENGTH)
    assert [chunk.token_ids async for chunk in stream][-1] == [9]
    # It was idle for longer than it may be silent, and is given as long again from its next request on.
    await asyncio.sleep(0.3)
    client.silent = True
    stream = await engine.submit(make_request())
    await asyncio.sleep(0.1)
    assert not engine.broken
    client.answer(client.sent[1], [7], FinishReason.LENGTH)
    assert (await anext(stream)).token_ids == [7]
    await asyncio.sleep(0.3)
    assert not engine.broken
    await engine.close()


async def test_a_step_that_cannot_be_counted_holds_up_no_request(
    linked: Linked, caplog: pytest.LogCaptureFixture
) -> None:
    def uncountable(_: EngineCoreOutputs) -> None:
        raise KeyError("a figure that is not there")

    engine, _ = linked(uncountable)
    for _ in range(2):
        async with asyncio.timeout(1):
            assert (await anext(await engine.submit(make_request()))).token_ids == [7]
    assert "a figure that is not there" in caplog.text
    await engine.close()


async def test_what_a_dead_engine_cannot_release_is_a_lost_lane(linked: Linked) -> None:
    """Not another error, which would take the place of the loss that the request is started again after."""
    engine, client = linked(lambda _: None)
    client.dead = True
    with pytest.raises(LaneLost):
        await engine.submit(make_request())
    with pytest.raises(LaneLost):
        await engine.send(make_request())
    await engine.close()


# vLLM's client that was not finished leaves its context to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_an_engine_that_is_ready_and_then_silent_holds_the_loop_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "READY_LIMIT_S", 0)
    monkeypatch.setattr(core_client, "VLLM_ENGINE_READY_TIMEOUT_S", 1)
    monkeypatch.setattr(Executor, "get_class", lambda _: Executor)
    parallel = SimpleNamespace(
        enable_elastic_ep=False,
        data_parallel_size=1,
        data_parallel_index=0,
        data_parallel_size_local=1,
        data_parallel_rank_local=None,
        local_engines_only=False,
    )
    addresses = Addresses()
    environment = dict(os.environ)
    try:
        with pytest.raises(TimeoutError, match="Waited 0s"):
            EngineLink(LANE, cast(VllmConfig, SimpleNamespace(parallel_config=parallel)), addresses, lambda _: None)
    finally:
        addresses.unlink()
    gc.collect()
    assert dict(os.environ) == environment, "what engines that start later inherit"
