"""Our own routes: the health of the lanes, and their signals."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import httpx
import pytest
from fastapi import FastAPI

from streamserve.api.routes import router
from streamserve.clock import now
from streamserve.protocols import TokenStream
from streamserve.signals import LaneSignals
from streamserve.types import Decision, LaneId, LaneState, Request
from tests.fakes import make_request, ticks
from tests.scheduler.rack import Rack


@pytest.fixture
async def rack() -> AsyncIterator[Rack]:
    async with Rack([("a", "b")]) as rack:
        yield rack


@pytest.fixture
async def http(rack: Rack) -> AsyncIterator[httpx.AsyncClient]:
    async with client(rack) as client_of_rack:
        yield client_of_rack


def client(rack: Rack) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(router(rack.scheduler))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


class Reported:
    """An engine whose lanes last reported at these instants."""

    def __init__(self, **at_s: float) -> None:
        self._at_s = at_s

    def signals(self) -> Mapping[LaneId, LaneSignals]:
        return {LaneId(lane): LaneSignals(LaneId(lane), LaneState.READY, at_s) for lane, at_s in self._at_s.items()}

    def stream(
        self, request: Request, decision: Decision, on_prefilled: Callable[[], None], sent: Sequence[int] = ()
    ) -> TokenStream:
        raise AssertionError("nothing is asked of it")


class TestHealth:
    async def test_all_lanes_ready(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/health")
        assert response.status_code == 200
        assert response.json() == {"status": "ready", "lanes": {"a": "ready", "b": "ready"}}

    async def test_one_lane_lost_is_degraded_and_says_why(self, rack: Rack, http: httpx.AsyncClient) -> None:
        rack["b"].die("out of memory")
        response = await http.get("/health")
        assert response.status_code == 200
        assert response.json() == {"status": "degraded", "lanes": {"a": "ready", "b": "lost: out of memory"}}

    async def test_no_lane_ready_is_not_ready(self, rack: Rack, http: httpx.AsyncClient) -> None:
        rack["a"].die("killed")
        rack["b"].state = LaneState.STARTING
        response = await http.get("/health")
        assert response.status_code == 503
        assert response.json() == {"status": "not ready", "lanes": {"a": "lost: killed", "b": "starting"}}


class TestLanes:
    async def test_an_idle_server(self, http: httpx.AsyncClient) -> None:
        report = (await http.get("/streamserve/lanes")).json()
        assert report["queued"] == 0
        assert [lane["lane"] for lane in report["lanes"]] == ["a", "b"]
        assert report["lanes"][0].pop("age_s") >= 0
        assert report["lanes"][0] == {
            "lane": "a",
            "state": "ready",
            "running": 0,
            "waiting": 0,
            "kv_used": 0.0,
            "prefix_hit": 0.0,
            "steps": 0,
            "prompt_tokens_total": 0,
            "output_tokens_total": 0,
            "restarts": 0,
            "pid": None,
            "error": None,
            "dispatched": {"prefill_requests": 0, "prefill_tokens": 0, "decode_requests": 0},
        }

    async def test_what_was_dispatched_is_counted_before_the_engine_reports(
        self, rack: Rack, http: httpx.AsyncClient
    ) -> None:
        rack["a"].hold("prefill")
        reading = rack.read(make_request(prompt=(1, 2, 3, 4, 5)))
        await ticks()
        dispatched = {
            lane["lane"]: lane["dispatched"] for lane in (await http.get("/streamserve/lanes")).json()["lanes"]
        }
        assert dispatched == {
            "a": {"prefill_requests": 1, "prefill_tokens": 5, "decode_requests": 0},
            "b": {"prefill_requests": 0, "prefill_tokens": 0, "decode_requests": 1},
        }
        rack["a"].free()
        await reading

    async def test_a_lost_lane_says_why(self, rack: Rack, http: httpx.AsyncClient) -> None:
        rack["b"].die("out of memory")
        lost = (await http.get("/streamserve/lanes")).json()["lanes"][1]
        assert (lost["state"], lost["error"]) == ("lost", "out of memory")

    async def test_a_report_has_an_age_once_there_is_one(self) -> None:
        rack = Rack([("a", "b")], engine=Reported(a=0.0, b=now() - 5))
        async with client(rack) as http:
            first, second = (await http.get("/streamserve/lanes")).json()["lanes"]
        assert first["age_s"] is None
        assert second["age_s"] == pytest.approx(5, abs=1)
