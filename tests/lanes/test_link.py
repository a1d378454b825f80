"""The link to an engine that is not there, and the names under which it knows requests."""

import asyncio
import gc
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest
from vllm.config import VllmConfig
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, core_client
from vllm.v1.executor import Executor

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
        self._outputs: asyncio.Queue[EngineCoreOutputs] = asyncio.Queue()

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        self.sent.append(request)
        self._outputs.put_nowait(EngineCoreOutputs(outputs=[EngineCoreOutput(request.request_id, [7])]))

    async def abort_requests_async(self, ids: list[str]) -> None: ...

    async def get_output_async(self) -> EngineCoreOutputs:
        return await self._outputs.get()

    def shutdown(self) -> None: ...

    @property
    def resources(self) -> Any:
        return SimpleNamespace(ctx=SimpleNamespace(destroy=lambda linger: None))


async def test_an_engine_knows_a_request_by_a_name_without_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "AsyncMPClient", Client)
    monkeypatch.setattr(Executor, "get_class", lambda _: Executor)
    engine = EngineLink(LANE, cast(VllmConfig, None), Addresses(), lambda _: None)
    request = make_request()
    request.request_id = "cmpl-a,b,,c-0"
    first, second = await engine.submit(request), await engine.submit(request)
    client = cast(Client, engine._client)
    names = [sent.request_id for sent in client.sent]
    assert names == ["cmpl-a_b__c-0/0", "cmpl-a_b__c-0/1"]
    for stream in (first, second):
        chunk = await anext(stream)
        assert (chunk.token_ids, chunk.output.request_id) == ([7], request.request_id)
    await engine.close()
    await ticks()


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
