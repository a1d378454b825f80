"""An agent attached to a real server: it routes, it sets depths, and the server goes on without it."""

from typing import Any

import gymnasium
import httpx
import pytest

import envs  # noqa: F401
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
        observation, info = environment.reset(seed=1)
        total, over = 0.0, False
        while not over:
            assert environment.observation_space.contains(observation)
            observation, reward, terminated, truncated, info = environment.step(info["heuristic"])
            total += reward
            over = terminated or truncated
        results = environment.unwrapped.results()
        assert terminated, info
        assert [result.error for result in results] == [None] * REQUESTS
        assert -total == pytest.approx(sum(result.e2e_s for result in results), abs=1e-6)
        if name == "Serve":
            shown = server.get("/streamserve/policy")
            deciders = [result.decision.router for result in results]
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
