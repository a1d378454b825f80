"""The routes of the trained policy: which one serves, another one instead, and what /health says of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from streamserve.api import policy, routes
from streamserve.api.admin import Keys
from streamserve.policy import store
from streamserve.policy.switch import PolicySwitch
from tests.fakes import make_request
from tests.policy.policies import PAIRS, make_card, make_config, make_weights
from tests.scheduler.rack import Rack


@pytest.fixture
def switch(tmp_path: Path) -> PolicySwitch:
    """With one policy to choose and another that is damaged."""
    store.save(tmp_path / "one", make_card(name="one"), make_weights())
    store.save(tmp_path / "damaged", make_card(name="damaged"), make_weights())
    (tmp_path / "damaged" / "policy.npz").write_bytes(b"PK")
    return PolicySwitch(make_config(source="heuristic", budget_us=None), tmp_path)


@pytest.fixture
async def rack(switch: PolicySwitch) -> AsyncIterator[Rack]:
    async with Rack(PAIRS, router=switch) as rack:
        yield rack


@pytest.fixture
async def http(rack: Rack, switch: PolicySwitch) -> AsyncIterator[httpx.AsyncClient]:
    async with client(rack, switch) as client_of_rack:
        yield client_of_rack


def client(rack: Rack, switch: PolicySwitch, *admin_keys: str) -> httpx.AsyncClient:
    app, admins = FastAPI(), Keys(admin_keys)
    app.include_router(routes.router(rack.scheduler, admins, switch))
    app.include_router(policy.router(switch, admins))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


async def test_health_and_the_route_of_its_own_say_the_same(http: httpx.AsyncClient) -> None:
    shown = (await http.get("/streamserve/policy")).json()
    assert (shown["source"], shown["mode"], shown["refused"]) == ("heuristic", "heuristic", None)
    health = await http.get("/health")
    assert health.status_code == 200 and health.json()["policy"] == shown


async def test_a_policy_is_exchanged_and_decides_from_then_on(rack: Rack, http: httpx.AsyncClient) -> None:
    await rack.read(make_request("r1"))
    answer = await http.post("/streamserve/policy", json={"policy": "one"})
    assert (answer.status_code, answer.json()["source"], answer.json()["kind"]) == (200, "one", "serve")
    await rack.read(make_request("r2"))
    await http.post("/streamserve/policy", json={"policy": "one", "mode": "shadow"})
    await rack.read(make_request("r3"))
    back = await http.post("/streamserve/policy", json={"policy": "heuristic"})
    assert back.json()["source"] == "heuristic"
    await rack.read(make_request("r4"))
    assert [decision.router for decision in rack.decisions] == ["flowguard", "learned", "flowguard", "flowguard"]
    assert back.json()["decisions"] == 1


@pytest.mark.parametrize("name", ["nowhere", "damaged"])
async def test_one_that_cannot_be_used_is_refused_and_what_served_goes_on(http: httpx.AsyncClient, name: str) -> None:
    await http.post("/streamserve/policy", json={"policy": "one", "mode": "canary:0.5"})
    answer = await http.post("/streamserve/policy", json={"policy": name})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "policy")
    assert name in error["message"] and "what served goes on" in error["message"]
    shown = (await http.get("/streamserve/policy")).json()
    assert (shown["source"], shown["mode"]) == ("one", "canary:0.5")


async def test_a_start_with_a_refused_policy_is_in_health_until_another_serves(rack: Rack, tmp_path: Path) -> None:
    switch = PolicySwitch(make_config(source="damaged"), tmp_path)
    async with client(rack, switch) as http:
        health = await http.get("/health")
        assert health.status_code == 200
        assert (health.json()["status"], health.json()["policy"]["source"]) == ("ready", "heuristic")
        assert "policy.npz" in health.json()["policy"]["refused"]
        await http.post("/streamserve/policy", json={"policy": "one"})
        assert (await http.get("/health")).json()["policy"]["refused"] is None


@pytest.mark.parametrize(
    ("body", "status", "advice"),
    [
        ("", 400, "send e.g."),
        (b"\xff", 400, "send e.g."),
        ("{}", 422, "policy"),
        ("null", 422, "send e.g."),
        ('{"policy": 3}', 422, "send e.g."),
        ('{"policy": "one", "share": 0.1}', 422, "share"),
        ('{"policy": "one", "mode": "often"}', 422, "canary:0.1"),
        ('{"policy": "one", "mode": "canary:2"}', 422, "below 1"),
        ('{"policy": ""}', 422, "no policy"),
        ('{"policy": "a\\u0000b"}', 422, "no policy"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    http: httpx.AsyncClient, body: str | bytes, status: int, advice: str
) -> None:
    response = await http.post("/streamserve/policy", content=body)
    assert response.status_code == status
    assert advice in response.json()["error"]["message"]
    assert (await http.get("/streamserve/policy")).json()["source"] == "heuristic"


@pytest.mark.parametrize(("given", "status"), [(None, 401), ("Bearer wrong", 401), ("Bearer secret", 200)])
async def test_with_keys_one_of_them_is_needed(
    rack: Rack, switch: PolicySwitch, given: str | None, status: int
) -> None:
    headers = {} if given is None else {"Authorization": given}
    async with client(rack, switch, "secret") as http:
        response = await http.post("/streamserve/policy", json={"policy": "one"}, headers=headers)
        shown = (await http.get("/streamserve/policy")).json()
    assert response.status_code == status
    assert shown["source"] == ("one" if status == 200 else "heuristic")
