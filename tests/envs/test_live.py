"""Live environments over fake and simulated lanes on a real event loop: bounded waits, reasons, nothing left behind."""

import threading
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs.live import Live
from streamserve.build import assemble
from streamserve.errors import LaneLost, LaneStartError
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.lane import SimLane
from streamserve.lanes.sim.options import LaneOptions
from streamserve.lanes.sim.work import SimWork, sim_request
from streamserve.protocols import Lane
from streamserve.types import Request, Slo
from streamserve.workload.plan import Planned
from tests.envs.scenes import CALIBRATION, IDS, A, B, config, heuristic, live, request, slow
from tests.fakes import FakeLane


@pytest.mark.parametrize("name", IDS)
def test_the_checkers_have_nothing_to_say(name: str) -> None:
    environment = live(name, slow())
    assert environment.spec.nondeterministic
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(environment.unwrapped)
        warnings.filterwarnings("ignore", "Your observation .* has an unconventional shape")
        sb3_check_env(environment)
    environment.close()


def test_a_drained_episode_s_rewards_are_its_latencies() -> None:
    environment = live("Serve", slow(), drain=True, requests=30)
    for seed in (1, 2):
        total, infos, terminated, truncated = heuristic(environment, seed)
        results = environment.unwrapped.results()
        assert (terminated, truncated) == (True, False)
        assert len(results) == 30
        assert -total == pytest.approx(sum(result.e2e_s for result in results))
        assert all(result.decision.router == "agent" for result in results)
        assert infos[-1]["cost/failures"] == 0
    environment.close()


@asynccontextmanager
async def simulated_lanes() -> AsyncIterator[Sequence[Lane]]:
    """Simulated lanes twenty times as fast as calibrated, in real time."""
    host = Host(CALIBRATION, np.random.default_rng(0), noise=False)
    given = config()
    options = LaneOptions(speed=20.0, start_s=0.01)
    lanes: list[Lane] = [
        SimLane(id, CALIBRATION, host, given.engine, given.speculation, np.random.default_rng(1), options)
        for id in (A, B)
    ]
    serving = assemble(given, lanes, lambda _result: None)
    await serving.start(lambda _lane, _stage: None)
    yield lanes
    await serving.aclose()


def sim(id: str, number: int, planned: Planned, arrived_s: float, slo: Slo) -> Request:
    work = SimWork(planned.max_tokens, "mix", number)
    return sim_request(id, planned.prompt_token_ids, planned.max_tokens, arrived_s, work, slo)


@pytest.mark.parametrize("name", IDS)
def test_simulated_lanes_serve_a_live_environment(name: str) -> None:
    given = Live(simulated_lanes, sim, idle_limit_s=5.0, decision_limit_s=5.0)
    environment = live(name, None, live=given, drain=True, requests=12, rate=60.0, workload="16:8")
    total, infos, terminated, _ = heuristic(environment)
    assert terminated
    assert -total == pytest.approx(sum(result.e2e_s for result in environment.unwrapped.results()), abs=1e-6)
    assert len(environment.unwrapped.results()) == 12
    environment.close()


def test_a_lane_that_dies_truncates_the_episode_with_the_reason() -> None:
    lanes: list[FakeLane] = []
    environment = live("Route", slow(keep=lanes), requests=1000)
    _, info = environment.reset(seed=1)
    for _ in range(3):
        *_, info = environment.step(info["heuristic"])
    loop = environment.unwrapped._stage._loop.loop
    loop.call_soon_threadsafe(lanes[1].die, "unplugged")
    truncated = False
    while not truncated:
        _, _, terminated, truncated, info = environment.step(info["heuristic"])
        assert not terminated
    assert info["reason"] == "lane b was lost: unplugged"
    with pytest.raises(LaneLost, match="not ready and idle within 2 s: b is lost"):
        environment.reset(seed=2)
    environment.close()


def test_an_episode_in_which_nothing_is_asked_is_cut_off() -> None:
    given = Live(slow(), request, idle_limit_s=2.0, decision_limit_s=0.2)
    environment = live("Route", None, live=given)
    _, info = environment.reset(seed=1)
    environment.unwrapped._stage.answer = lambda _asked, _answer: None
    *_, truncated, info = environment.step(info["heuristic"])
    assert truncated
    assert info["reason"] == "the plant asked nothing for 0.2 s"
    environment.close()


def test_lanes_may_take_longer_to_drain_than_a_decision_may() -> None:
    given = Live(slow(turn_s=0.2), request, idle_limit_s=5.0, decision_limit_s=0.25)
    environment = live("Route", None, live=given, requests=2, drain=True)
    _, infos, terminated, truncated = heuristic(environment)
    assert (terminated, truncated) == (True, False)
    assert "reason" not in infos[-1]
    environment.close()


def test_lanes_that_do_not_come_up_fail_the_reset() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Sequence[Lane]]:
        if threading.active_count():
            raise LaneStartError("no memory left")
        yield []

    environment = live("Route", broken)
    for _ in range(2):
        with pytest.raises(LaneStartError, match="no memory left"):
            environment.reset(seed=1)
    environment.close()


def test_controls_reach_the_lanes() -> None:
    lanes: list[FakeLane] = []
    environment = live("Spec", slow(keep=lanes), requests=4)
    environment.reset(seed=1)
    environment.step(np.array([3, 4] + [0] * 6))
    environment.step(np.array([0] * 8))
    assert [("control", lane.id) in lane.calls for lane in lanes] == [True, True]
    environment.close()


def test_closing_takes_everything_down() -> None:
    before = threading.active_count()
    lanes: list[FakeLane] = []
    environment: Any = live("Route", slow(keep=lanes)).unwrapped
    environment.reset(seed=1)
    environment.step(0)
    environment.close()
    environment.close()
    assert threading.active_count() == before
    assert all(("close", lane.id) in lane.calls for lane in lanes)
    assert all(lane.idle for lane in lanes)


def test_every_episode_begins_clean() -> None:
    cleaned: list[int] = []

    async def clean(lanes: Sequence[Lane]) -> None:
        assert not any(lane.signals().running for lane in lanes)
        cleaned.append(len(lanes))

    environment = live("Route", None, live=Live(slow(), request, clean=clean), requests=3)
    for seed in range(3):
        heuristic(environment, seed)
    assert cleaned == [2, 2, 2]
    environment.close()
