"""Environments on a server that runs, over fake lanes: whose traffic, what it costs, and what goes wrong."""

import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import gymnasium
import httpx
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from typer.testing import CliRunner

import envs  # noqa: F401
from envs.reward import Ledger
from streamserve.cli import app
from streamserve.config import PolicyConfig, SchedulerConfig, SloConfig
from streamserve.errors import ConfigError, LaneLost, SetupError
from streamserve.metrics.policy import Fallback
from streamserve.policy import store
from streamserve.policy.wire import Arrived, Ask, Began, Ended
from streamserve.types import Request
from tests.api.plant import Plant, threaded
from tests.envs.scenes import IDS, config, heuristic

SERVED = config(policy=PolicyConfig(source="heuristic", remote=True, remote_budget_s=20.0))
TURN_S = 0.002


@pytest.fixture(scope="module")
def server() -> Iterator[Plant]:
    with threaded(SERVED, TURN_S) as made:
        yield made


def remote(name: str, url: str, **given: Any) -> Any:
    known = {"url": url, "requests": 20, "tick_s": 0.05, "decision_limit_s": 5.0, "idle_limit_s": 5.0, "budget_s": 20.0}
    return gymnasium.make(f"streamserve/{name}Live-v0", **{**known, **given})


def driven(name: str, url: str, **given: Any) -> Any:
    known = {"drive": True, "rate": 100.0, "workload": "8:4", "vocabulary": 1000}
    return remote(name, url, **{**known, **given})


class Clients:
    """Traffic of others: one request after the other, until `stop`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.over = threading.Event()
        self.served = 0
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(3)]
        for thread in self._threads:
            thread.start()

    def _run(self, place: int) -> None:
        number = 0
        with httpx.Client(base_url=self._url, timeout=20, trust_env=False) as http:
            while not self.over.is_set():
                number += 1
                body = {"prompt": [1, 2, number % 90], "max_tokens": 4}
                answer = http.post("/v1/completions", json=body, headers={"x-request-id": f"c{place}.{number}"})
                if answer.is_error:
                    self.failed.append(answer.text)
                self.served += 1

    def stop(self) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def clients(server: Plant) -> Iterator[Clients]:
    some = Clients(server.url)
    yield some
    some.stop()
    assert some.failed == []


@pytest.mark.parametrize("name", IDS)
def test_the_checkers_have_nothing_to_say(server: Plant, clients: Clients, name: str) -> None:
    environment = remote(name, server.url)
    assert environment.spec.nondeterministic
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(environment.unwrapped, skip_render_check=True)
        warnings.filterwarnings("ignore", "Your observation .* has an unconventional shape")
        sb3_check_env(environment)
    environment.close()


@pytest.mark.parametrize("name", IDS)
def test_under_the_server_s_own_traffic_episodes_are_cut_after_their_decisions(
    server: Plant, clients: Clients, name: str
) -> None:
    environment = remote(name, server.url, requests=10)
    for seed in (1, 2):
        total, infos, terminated, truncated = heuristic(environment, seed)
        assert (terminated, truncated) == (False, True)
        assert len(infos) == 11 and total < 0
    environment.close()
    scenario = environment.unwrapped.scenario
    assert [lane.id for lane in scenario.config.lanes] == ["a", "b"]
    assert scenario.config.stream_pairs() == SERVED.stream_pairs()


@pytest.mark.parametrize("name", IDS)
def test_a_drained_episode_of_its_own_traffic_costs_its_latencies(server: Plant, name: str) -> None:
    environment = driven(name, server.url, drain=True)
    before = len(server.results)
    for seed in (1, 2):
        total, infos, terminated, truncated = heuristic(environment, seed)
        results = environment.unwrapped.results()
        assert (terminated, truncated) == (True, False)
        assert len(results) == 20
        assert -total == pytest.approx(sum(result.e2e_s for result in results), abs=1e-6)
        assert infos[-1]["cost/failures"] == 0
        if name != "Spec":
            assert {result.decision.router for result in results} == {"agent"}
            assert infos[-1]["late"] == 0
    environment.close()
    assert [result.e2e_s for result in results] == [result.e2e_s for result in server.results[before + 20 :]]


def test_the_reward_is_that_of_a_ledger_at_the_server() -> None:
    """Every step's costs are those that a ledger beside the scheduler has, deadlines included."""
    told: list[Any] = []
    with threaded(config(policy=SERVED.policy, slo=SloConfig(ttft_s=0.01, tpot_s=0.003)), TURN_S) as server:
        seat: Any = server.switch.seat
        take = seat.take

        def taken(wish: Any, send: Any, look: Any) -> None:
            def both(message: Any) -> None:
                told.append(message)
                send(message)

            take(wish, both, look)

        seat.take = taken
        environment = driven("Route", server.url, drain=True, requests=30, rate=300.0)
        _, infos, terminated, _ = heuristic(environment, 3)
        environment.close()
    assert terminated
    ledger, costs = Ledger(0.0), []
    for message in told:
        match message:
            case Arrived():
                ledger.arrived(Request(message.request_id, (), message.max_tokens, message.at_s), message.slo)
            case Began():
                ledger.first_token(message.request_id, message.at_s)
            case Ended():
                ledger.ended(message.result)
            case Ask():
                costs.append(ledger.settle(message.signals.at_s))
    assert len(costs) == 30
    # What accrued before the first decision is in the first step.
    expected = [costs[0].plus(costs[1]), *costs[2:]]
    seen = [(info["cost/ttft"], info["cost/decode"], info["cost/slo"], info["cost/failures"]) for info in infos[1:-1]]
    assert seen == [pytest.approx(tuple(cost), abs=1e-9) for cost in expected]
    assert sum(cost.slo for cost in expected) > 0


def test_an_invalid_action_becomes_the_heuristic_s(server: Plant) -> None:
    environment = driven("Serve", server.url, requests=3)
    environment.reset(seed=1)
    *_, info = environment.step(np.int64(31))
    assert info["invalid_actions"] == 1
    assert Fallback.INVALID not in server.switch.tally.fallbacks
    environment.close()


def test_an_agent_that_thinks_too_long_costs_a_request_its_budget_and_no_more(server: Plant, clients: Clients) -> None:
    environment = remote("Route", server.url, budget_s=0.05)
    _, info = environment.reset(seed=1)
    before = clients.served
    deadline_s = time.monotonic() + 5
    while clients.served < before + 30:
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)
    for late in (1, 1, 1):
        *_, info = environment.step(info["heuristic"])
        assert info["late"] >= late
    environment.close()


def test_a_server_that_goes_away_cuts_the_episode_off_and_the_next_reset_says_so() -> None:
    with threaded(SERVED, TURN_S) as server:
        some = Clients(server.url)
        environment = remote("Route", server.url)
        _, info = environment.reset(seed=1)
        *_, info = environment.step(info["heuristic"])
        some.over.set()
        server.loop.call_soon_threadsafe(setattr, server.server, "should_exit", True)
        truncated = False
        while not truncated:
            *_, truncated, info = environment.step(info["heuristic"])
        assert "has gone" in info["reason"]
        with pytest.raises(SetupError, match=r"no server answers at .*policy\.remote=true"):
            environment.reset(seed=2)
        environment.close()


class TestRefusals:
    def test_a_wrong_key(self) -> None:
        with threaded(SERVED, admin_keys=["secret"]) as server:
            with pytest.raises(ConfigError, match="needs an admin key"):
                remote("Route", server.url, admin_key="wrong").reset()
            environment = driven("Route", server.url, admin_key="secret", requests=2)
            environment.reset(seed=1)
            environment.close()

    def test_the_key_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STREAMSERVE_ADMIN_KEY", "secret")
        with threaded(SERVED, admin_keys=["secret"]) as server:
            environment = driven("Route", server.url, requests=2)
            environment.reset(seed=1)
            environment.close()

    def test_a_server_that_takes_no_agents(self) -> None:
        with (
            threaded(config()) as server,
            pytest.raises(ConfigError, match=r"takes no agents: start it with --set policy\.remote=true"),
        ):
            remote("Route", server.url).reset()

    def test_another_codec(self, server: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = remote("Route", server.url)
        monkeypatch.setattr(environment.unwrapped.codec, "schema_hash", lambda: "other")
        with pytest.raises(ConfigError, match="other observations"):
            environment.reset()

    def test_a_second_agent(self, server: Plant) -> None:
        first = driven("Route", server.url)
        first.reset(seed=1)
        with pytest.raises(ConfigError, match="another agent is attached"):
            remote("Route", server.url).reset()
        first.close()

    def test_no_server(self) -> None:
        with pytest.raises(SetupError, match="no server answers"):
            remote("Route", "http://127.0.0.1:9").reset()

    def test_no_traffic(self, server: Plant) -> None:
        environment = remote("Route", server.url, decision_limit_s=0.1)
        with pytest.raises(TimeoutError, match=r"no request came .* set drive"):
            environment.reset()
        environment.close()

    def test_others_traffic_beside_its_own(self, server: Plant, clients: Clients) -> None:
        environment = driven("Route", server.url, idle_limit_s=0.2)
        with pytest.raises(LaneLost, match="is not idle within"):
            for seed in range(50):
                environment.reset(seed=seed)
        environment.close()

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"url": "127.0.0.1:8000"}, "url must be"),
            ({"drive": True, "vocabulary": 9}, "drive needs rate"),
            ({"drive": True, "rate": 1.0}, "drive needs vocabulary"),
            ({"drain": True}, "drain needs drive"),
            ({"budget_s": 0.0}, "budget_s"),
            ({"randomise": {"lanes": [1, 2]}}, "can randomise"),
            ({"url": None, "drive": True}, "drive needs url"),
        ],
    )
    def test_settings_that_cannot_work(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            remote("Route", **{"url": "http://127.0.0.1:8000", **given})


def test_requests_that_the_server_refuses_are_failures() -> None:
    full = config(policy=SERVED.policy, scheduler=SchedulerConfig(max_queued=2, max_dispatched=1))
    with threaded(full, 0.02) as server:
        environment = driven("Route", server.url, drain=True, requests=12, rate=1000.0)
        _, infos, terminated, _ = heuristic(environment, 1)
        assert terminated
        results = environment.unwrapped.results()
        refused = [result for result in results if result.decision is None]
        assert len(results) == 12 and refused
        assert sum(info["cost/failures"] for info in infos) == len(refused)
        assert "the server is full" in (refused[0].error or "")
        environment.close()


def test_controls_reach_the_lanes(server: Plant) -> None:
    environment = driven("Spec", server.url, requests=4)
    environment.reset(seed=1)
    environment.step(np.array([3, 4] + [0] * 6))
    environment.step(np.array([0] * 8))
    environment.close()
    assert all(("control", lane.id) in lane.calls for lane in server.lanes)


def test_closing_hangs_up_and_leaves_nothing(server: Plant) -> None:
    before = threading.active_count()
    environment: Any = driven("Route", server.url).unwrapped
    environment.reset(seed=1)
    environment.step(0)
    environment.close()
    environment.close()
    assert threading.active_count() == before
    free: Future[bool] = Future()

    def look() -> None:
        if server.switch.seat is not None and not server.switch.seat.taken:
            free.set_result(True)
        else:
            server.loop.call_later(0.01, look)

    server.loop.call_soon_threadsafe(look)
    assert free.result(5)


def test_a_policy_learns_on_it(server: Plant, clients: Clients, tmp_path: Path) -> None:
    changes = [f"env_kwargs.url={server.url}", "env_kwargs.randomise={}", "env_kwargs.requests=12", "n_envs=1"]
    changes += ["twin=false", "n_steps=16", "batch_size=8", "n_epochs=1", "env_kwargs.budget_s=20.0"]
    options = [part for change in changes for part in ("--set", change)]
    command = ["train", "--plant", "live", "--total-timesteps", "32", "--name", "one", "--runs", str(tmp_path)]
    ran = CliRunner().invoke(app, [*command, *options])
    assert ran.exit_code == 0, ran.output
    card = store.load(tmp_path / "one" / "last").card
    assert (card.kind, card.steps, card.calibration.name) == ("route", 32, "live")
    assert [(each.lanes, each.pairs) for each in card.topologies] == [(2, 2)]
