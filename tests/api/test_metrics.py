"""vLLM's /metrics route shows our series beside its own."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from streamserve.metrics.prometheus import install
from streamserve.metrics.results import ResultMetrics
from tests.metrics.samples import Source, full_lane, result, signals


@pytest.fixture
def cleaned() -> Iterator[None]:
    """Afterwards the process's registry, which vLLM's route reads, holds what it held before."""
    before = set(REGISTRY._collector_to_names)
    yield
    added: set[Collector] = set(REGISTRY._collector_to_names) - before
    for collector in added:
        REGISTRY.unregister(collector)


async def test_the_route_reads_our_series(cleaned: None) -> None:
    from vllm.entrypoints.serve.instrumentator.metrics import attach_router

    app = FastAPI()
    attach_router(app)
    results = ResultMetrics(REGISTRY)
    source = Source(signals(full_lane(), queued=7))
    install(source, REGISTRY)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
        before = (await http.get("/metrics")).text
        results.learn(result())
        source.now = signals(full_lane(), queued=8)
        after = (await http.get("/metrics")).text
    assert "streamserve:queued_requests 7.0" in before
    assert "streamserve:queued_requests 8.0" in after
    line = 'streamserve:requests_total{disaggregated="yes",finish="stop",router="flowguard"} 1.0'
    assert line not in before and line in after
