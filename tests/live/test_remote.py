"""An agent attached to a real server: it routes, it sets depths, and the server goes on without it."""

from typing import Any

import gymnasium
import httpx
import pytest

import envs  # noqa: F401
from tests.live.episode import played
from tests.live.server import Server

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

REQUESTS = 8


def attached(server: Server, name: str) -> Any:
    return gymnasium.make(
        f"streamserve/{name}Live-v0",
        url=server.url,
        drive=True,
        drain=True,
        rate=2.0,
        requests=REQUESTS,
        workload="24:8",
        vocabulary=40_000,
        budget_s=0.25,
        tick_s=0.5,
    )


@pytest.mark.parametrize("name", ["Serve", "Spec"])
def test_a_whole_episode_costs_what_its_requests_lasted(server: Server, name: str) -> None:
    server.wait_idle()
    environment = attached(server, name)
    try:
        played(environment, seed=1, requests=REQUESTS)
        if name == "Serve":
            shown = server.get("/streamserve/policy")
            deciders = [result.decision.router for result in environment.unwrapped.results()]
            # A busy machine may be late.
            assert shown["agent"]["decisions"] == deciders.count("agent") > REQUESTS // 2
    finally:
        environment.close()
    server.wait_idle()


def test_without_it_the_server_serves_as_before(server: Server) -> None:
    environment = attached(server, "Route")
    environment.reset(seed=1)
    # It leaves in the middle of a decision, with requests of its own on their way.
    environment.close()
    server.wait_idle()
    ask = {"model": server.model, "prompt": "Once upon a time", "max_tokens": 4}
    answer = httpx.post(
        f"{server.url}/v1/completions", json=ask, headers={"x-streamserve-decision": "1"}, timeout=60
    ).raise_for_status()
    assert '"router":"agent"' not in answer.headers["x-streamserve-decision"]
    assert "agent" not in server.get("/streamserve/policy")
