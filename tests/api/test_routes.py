"""Our own routes: the health of the lanes, their signals, and the control of their depth."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import httpx
import pytest
from fastapi import FastAPI

from streamserve.api.admin import Keys
from streamserve.api.routes import router
from streamserve.clock import now
from streamserve.protocols import TokenStream
from streamserve.signals import DepthControl, DepthMode, DeviceSignals, LaneSignals
from streamserve.types import Decision, LaneId, LaneState, Request
from tests.fakes import make_request, ticks
from tests.metrics.samples import full_lane
from tests.scheduler.rack import Rack


@pytest.fixture
async def rack() -> AsyncIterator[Rack]:
    async with Rack([("a", "b")]) as rack:
        yield rack


@pytest.fixture
async def http(rack: Rack) -> AsyncIterator[httpx.AsyncClient]:
    async with client(rack) as client_of_rack:
        yield client_of_rack


def client(rack: Rack, *admin_keys: str) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(router(rack.scheduler, Keys(admin_keys)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


class Reported:
    """An engine of these snapshots."""

    def __init__(self, *snapshots: LaneSignals) -> None:
        self._snapshots = {snapshot.lane: snapshot for snapshot in snapshots}

    def signals(self) -> Mapping[LaneId, LaneSignals]:
        return self._snapshots

    def stream(
        self, request: Request, decision: Decision, on_prefilled: Callable[[], None], sent: Sequence[int] = ()
    ) -> TokenStream:
        raise AssertionError("nothing is asked of it")

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None:
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
        lane = report["lanes"][0]
        assert lane["age_s"] >= 0
        assert lane["depth"] == {
            "control": "specustream:1",
            "mode": "specustream",
            "depth": 0,
            "target": 0.5,
            "price": 1.0,
            "max_depth": None,
        }
        assert lane["dispatched"] == {
            "prefill_requests": 0,
            "prefill_tokens": 0,
            "decode_requests": 0,
            "awaited_requests": 0,
        }

    async def test_every_signal_is_shown_with_ages_for_instants(self, rack: Rack) -> None:
        snapshot = full_lane(LaneId("a"), at_s=now() - 5, device=DeviceSignals(now() - 2, 1.0))
        async with client(Rack([("a", "b")], engine=Reported(snapshot))) as http:
            (lane,) = (await http.get("/streamserve/lanes")).json()["lanes"]
        fields = {field.name for field in dataclasses.fields(LaneSignals)} - {"at_s"}
        assert lane.keys() == fields | {"age_s", "dispatched"}
        assert lane["age_s"] == pytest.approx(5, abs=1)
        assert lane["device"].pop("age_s") == pytest.approx(2, abs=1)
        assert lane["device"].keys() == {"cpu_cores", "rss_bytes", "gpu_memory_used", "gpu_busy", "gpu_celsius"}
        assert lane["cost"] == {"decode_s": [[1, 0.03], [8, 0.05]], "prefill_token_s": 0.002, "steps": 77}
        assert lane["ttft_s"] == {"fast_s": 0.3, "slow_s": 0.4}
        assert lane["depth"]["control"] == "fixed:3"

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
            "a": {"prefill_requests": 1, "prefill_tokens": 5, "decode_requests": 0, "awaited_requests": 0},
            "b": {"prefill_requests": 0, "prefill_tokens": 0, "decode_requests": 1, "awaited_requests": 1},
        }
        rack["a"].free()
        await reading

    async def test_a_lost_lane_says_why(self, rack: Rack, http: httpx.AsyncClient) -> None:
        rack["b"].die("out of memory")
        lost = (await http.get("/streamserve/lanes")).json()["lanes"][1]
        assert (lost["state"], lost["error"]) == ("lost", "out of memory")

    async def test_nothing_reported_has_no_age(self) -> None:
        async with client(Rack([("a", "b")], engine=Reported(full_lane(at_s=0.0, device=DeviceSignals())))) as http:
            (lane,) = (await http.get("/streamserve/lanes")).json()["lanes"]
        assert lane["age_s"] is None
        assert lane["device"]["age_s"] is None


class TestDepth:
    @pytest.mark.parametrize(
        ("body", "control"),
        [
            ({"mode": "off"}, DepthControl(DepthMode.OFF)),
            ({"mode": "fixed", "depth": 3}, DepthControl(DepthMode.FIXED, 3)),
            ({"mode": "target_acceptance", "target": 0.6}, DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.6)),
            ({"mode": "specustream", "price": 2, "max_depth": 5}, DepthControl(price=2.0, max_depth=5)),
            ({"mode": "specustream", "max_depth": None}, DepthControl()),
            ({"control": "off"}, DepthControl(DepthMode.OFF)),
            ({"control": "fixed:3", "max_depth": 2}, DepthControl(DepthMode.FIXED, 3, max_depth=2)),
            ({"control": "target_acceptance:0.25"}, DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.25)),
            ({"control": "target_acceptance"}, DepthControl(DepthMode.TARGET_ACCEPTANCE)),
            ({"control": "specustream:1.5"}, DepthControl(price=1.5)),
        ],
    )
    async def test_a_control_is_set(
        self, rack: Rack, http: httpx.AsyncClient, body: dict[str, object], control: DepthControl
    ) -> None:
        response = await http.post("/streamserve/lanes/b/depth", json=body)
        assert response.status_code == 200
        assert rack["b"].signals().depth == control
        assert rack["a"].signals().depth == rack["a"].default_depth
        answer = response.json()
        assert (answer["lane"], answer["expires_in_s"]) == ("b", 60.0)
        assert answer["depth"] == (await http.get("/streamserve/lanes")).json()["lanes"][1]["depth"]
        assert DepthControl(**{name: answer["depth"][name] for name in DepthControl.__slots__}) == control

    async def test_it_expires(self, rack: Rack, http: httpx.AsyncClient) -> None:
        response = await http.post("/streamserve/lanes/a/depth", json={"mode": "off", "ttl_s": 0.05})
        assert response.json()["expires_in_s"] == 0.05
        assert rack["a"].signals().depth == DepthControl(DepthMode.OFF)
        await asyncio.sleep(0.06)
        assert rack["a"].signals().depth == rack["a"].default_depth

    @pytest.mark.parametrize("body", ["null", '{"mode": "default"}', '{"control": "default"}', '{"control": null}'])
    async def test_back_to_the_default(self, rack: Rack, http: httpx.AsyncClient, body: str) -> None:
        await http.post("/streamserve/lanes/a/depth", json={"mode": "fixed", "depth": 2})
        response = await http.post("/streamserve/lanes/a/depth", content=body)
        assert response.status_code == 200
        assert rack["a"].signals().depth == rack["a"].default_depth
        assert response.json()["depth"]["control"] == "specustream:1"
        assert response.json()["expires_in_s"] is None

    @pytest.mark.parametrize(
        ("body", "status", "param", "advice"),
        [
            ("", 400, None, "send e.g."),
            ("{", 400, None, "send e.g."),
            ('{"mode": "fixed", "depth": NaN}', 400, None, "send e.g."),
            (b"\xff\xfe", 400, None, "send e.g."),
            ("[]", 422, None, "fields are mode"),
            ("{}", 422, "mode", "name a mode"),
            ('{"mode": "deep"}', 422, "mode", "off, fixed, target_acceptance, specustream"),
            ('{"mode": "fixed"}', 422, "depth", '"depth": 3'),
            ('{"mode": "fixed", "depth": -1}', 422, "depth", ">= 0"),
            ('{"mode": "fixed", "depth": 2.5}', 422, "depth", "int"),
            ('{"mode": "fixed", "depth": true}', 422, "depth", "int"),
            ('{"mode": "fixed", "depth": 99999999999999999999999}', 422, "depth", "fields are"),
            ('{"mode": "fixed", "depht": 2}', 422, None, "depht"),
            ('{"mode": "target_acceptance", "target": 1.5}', 422, "target", "<= 1"),
            ('{"mode": "specustream", "price": -1}', 422, "price", ">= 0"),
            ('{"mode": "specustream", "price": 1e999}', 422, "price", "fields are"),
            ('{"mode": "specustream", "max_depth": -2}', 422, "max_depth", ">= 0"),
            ('{"mode": "off", "ttl_s": 0}', 422, "ttl_s", "> 0"),
            ('{"mode": "off", "ttl_s": 86401}', 422, "ttl_s", "<= 86400"),
            ('{"control": "fixed"}', 422, "control", "depth after the colon"),
            ('{"control": "fixed:two"}', 422, "control", "depth after the colon"),
            ('{"control": "specustream:nan"}', 422, "control", "price after the colon"),
            ('{"control": "specustream:inf"}', 422, "control", "price after the colon"),
            ('{"control": "off:1"}', 422, "control", "takes no number"),
            ('{"control": "deep"}', 422, "control", "fixed:3"),
            ('{"control": "fixed:3", "mode": "off"}', 422, "control", "not both"),
        ],
    )
    async def test_what_makes_no_sense_is_refused(
        self, rack: Rack, http: httpx.AsyncClient, body: str | bytes, status: int, param: str | None, advice: str
    ) -> None:
        response = await http.post("/streamserve/lanes/a/depth", content=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (status, status, param)
        assert advice in error["message"]
        assert ("control", "a") not in rack["a"].calls

    async def test_lanes_that_cannot_be_controlled(self, rack: Rack, http: httpx.AsyncClient) -> None:
        async def status(lane: str) -> int:
            response = await http.post(f"/streamserve/lanes/{lane}/depth", json={"mode": "off"})
            assert response.json()["error"]["message"]
            return response.status_code

        rack["a"].default_depth = None
        rack["b"].die("killed")
        assert [await status("nowhere"), await status("a"), await status("b")] == [404, 409, 503]

    @pytest.mark.parametrize(
        ("given", "status"),
        [
            (None, 401),
            ("secret", 401),
            ("Bearer wrong", 401),
            ("Bearer ", 401),
            ("Basic secret", 401),
            ("Bearer sécret", 401),
            ("Bearer secret", 200),
            ("bearer other", 200),
        ],
    )
    async def test_with_keys_one_of_them_is_needed(self, rack: Rack, given: str | None, status: int) -> None:
        headers = [] if given is None else [(b"Authorization", given.encode())]
        async with client(rack, "secret", "other", "") as http:
            response = await http.post("/streamserve/lanes/a/depth", json={"mode": "off"}, headers=headers)
            assert (await http.get("/streamserve/lanes")).status_code == 200
        assert response.status_code == status
        assert (("control", "a") in rack["a"].calls) == (status == 200)
        if status == 401:
            assert response.headers["www-authenticate"] == "Bearer"
            assert "admin key" in response.json()["error"]["message"]

    async def test_an_empty_key_opens_nothing(self, rack: Rack) -> None:
        async with client(rack, "") as http:
            response = await http.post("/streamserve/lanes/a/depth", json=None, headers={"Authorization": "Bearer "})
        assert response.status_code == 401
