"""Serve and Route over simulated lanes: what Gymnasium wants, what FlowGuard does, and what episodes add up to."""

import threading
import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from streamserve.errors import ConfigError
from streamserve.simulation.run import simulate
from streamserve.types import Finish, Slo
from tests.envs.scenes import CALIBRATION, IDS, A, B, config, heuristic, plain, simulated

FAILING = {"failures": ((1.0, A),), "restart_s": 1.0}


@pytest.mark.parametrize("name", IDS)
def test_the_checkers_have_nothing_to_say(name: str) -> None:
    environment = simulated(name, requests=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(environment.unwrapped)
        # It would have rows of features flattened, and leaves them to custom policies otherwise.
        warnings.filterwarnings("ignore", "Your observation .* has an unconventional shape")
        sb3_check_env(environment)
    environment.close()


@pytest.mark.parametrize("pairs", ["own", "all"])
@pytest.mark.parametrize("name", ["Serve", "Route"])
def test_the_heuristic_s_episode_is_flowguard_s(name: str, pairs: str) -> None:
    given: dict[str, Any] = {"requests": 60, "drain": True, "load": 0.9, "arrivals": "gamma:3", "options": FAILING}
    environment = simulated(name, config=config(pairs), **given)
    heuristic(environment)
    scenario = environment.unwrapped.scenario
    plan = tuple(scenario.traffic.planned(60))
    alone = simulate(plan, scenario.config, CALIBRATION, scenario.options).run.results
    by_id = {result.request_id: result for result in environment.unwrapped.results()}
    assert len(by_id) == len(alone) == 60
    for result in alone:
        mine = by_id[result.request_id]
        assert mine.decision is not None
        assert mine.decision.router == "agent"
        assert replace(mine, decision=replace(mine.decision, router="flowguard")) == result
    environment.close()


def test_a_drained_episode_s_rewards_are_its_latencies() -> None:
    environment = simulated("Serve", requests=40, drain=True, load=1.2)
    total, infos, terminated, truncated = heuristic(environment)
    results = environment.unwrapped.results()
    assert (terminated, truncated) == (True, False)
    assert len(results) == 40
    assert -total == pytest.approx(sum(result.e2e_s for result in results))
    assert sum(info["cost/ttft"] for info in infos) == pytest.approx(sum(result.ttft_s or 0.0 for result in results))
    lasted_s = max(result.finished_s for result in results) - min(result.arrived_s for result in results)
    # The last chunk bears the instant that it was made, and is heard of after the way back.
    heard_s = CALIBRATION.front.return_s
    assert sum(info["dt"] for info in infos) == pytest.approx(lasted_s + heard_s)
    assert not environment.unwrapped.codec.empty()["pairs"].any()
    environment.close()


def test_deadlines_and_failures_are_booked_as_results_have_them() -> None:
    weights = {"slo": 5.0, "failure": 7.0}
    given = {"requests": 40, "drain": True, "load": 1.5, "options": FAILING, "slo": Slo(0.2, 0.045)}
    lossy = plain()
    environment = simulated("Route", config=lossy, weights=weights, **given)
    total, infos, terminated, _ = heuristic(environment)
    results = environment.unwrapped.results()
    failed = [each for each in results if each.finish not in (Finish.STOP, Finish.LENGTH)]
    late = sum((each.ttft_s or 0.0) > 0.2 for each in results) + sum((each.tpot_s or 0.0) > 0.045 for each in results)
    assert terminated
    assert late > 0
    assert sum(info["cost/slo"] for info in infos) == late
    assert sum(info["cost/failures"] for info in infos) == len(failed)
    expected = sum(each.e2e_s for each in results) + 5.0 * late + 7.0 * len(failed)
    assert -total == pytest.approx(expected)
    environment.close()


@pytest.mark.parametrize("name", IDS)
def test_seeds_reproduce_bit_for_bit(name: str) -> None:
    runs = []
    for _ in range(2):
        environment = simulated(name, requests=12, randomise={"speed": [0.5, 2.0], "staleness_s": [0.0, 0.2]})
        observation, info = environment.reset(seed=5)
        run = [(observation, 0.0, info)]
        chance = np.random.default_rng(0)
        for _ in range(12):
            valid = environment.unwrapped.action_masks()
            if name == "Spec":
                action = np.array([chance.choice(np.flatnonzero(row)) for row in valid.reshape(8, -1)])
            else:
                action = chance.choice(np.flatnonzero(valid))
            observation, reward, *_, info = environment.step(action)
            run.append((observation, reward, info))
        runs.append(run)
        environment.close()
    for (one, one_reward, one_info), (other, other_reward, other_info) in zip(*runs, strict=True):
        assert all((one[key] == other[key]).all() for key in one)
        assert one_reward == other_reward
        assert all(np.array_equal(one_info[key], other_info[key]) for key in one_info)


def test_masks_are_never_empty_and_the_heuristic_is_always_valid() -> None:
    environment = simulated("Serve", requests=30, options=FAILING, load=1.2)
    _, info = environment.reset(seed=3)
    over = False
    while not over:
        mask = environment.unwrapped.action_masks()
        assert mask.shape == (32,)
        assert mask[info["heuristic"]]
        _, _, terminated, truncated, info = environment.step(np.flatnonzero(mask)[-1])
        over = terminated or truncated
    assert environment.unwrapped.action_masks().any()
    environment.close()


def test_an_invalid_action_is_the_heuristic_s_and_is_counted() -> None:
    wrong, right = simulated("Serve", requests=20, drain=True), simulated("Serve", requests=20, drain=True)
    total, _, _, _ = heuristic(right)
    _, info = wrong.reset(seed=1)
    rewards, over = 0.0, False
    while not over:
        _, reward, over, _, info = wrong.step(31)
        rewards += reward
    assert rewards == total
    assert info["invalid_actions"] == 20
    wrong.close()
    right.close()


def test_a_depth_cap_reaches_the_request() -> None:
    environment = simulated("Serve", requests=10, drain=True, workload="64:64")
    _, info = environment.reset(seed=1)
    over = False
    while not over:
        action = info["heuristic"] + 1
        assert environment.unwrapped.action_masks()[action]
        _, _, over, _, info = environment.step(action)
    assert {result.decision.max_depth for result in environment.unwrapped.results()} == {0}
    environment.close()


def test_a_training_episode_is_truncated_at_its_horizon() -> None:
    environment = simulated("Route", requests=12)
    _, infos, terminated, truncated = heuristic(environment)
    assert (terminated, truncated) == (False, True)
    assert len(infos) == 13
    assert "reason" not in infos[-1]
    with pytest.raises(gymnasium.error.ResetNeeded):
        environment.unwrapped.step(0)
    environment.close()


def test_a_horizon_in_seconds_cuts_an_episode_that_would_drain() -> None:
    environment = simulated("Route", requests=500, drain=True, horizon_s=2.0)
    _, infos, terminated, truncated = heuristic(environment)
    assert (terminated, truncated) == (False, True)
    assert 2.0 <= sum(info["dt"] for info in infos) < 4.0
    environment.close()


def test_what_does_not_drain_in_time_is_truncated_with_the_reason() -> None:
    environment = simulated("Route", requests=20, drain=True, drain_limit_s=0.05, load=2.0)
    _, infos, terminated, truncated = heuristic(environment)
    assert (terminated, truncated) == (False, True)
    assert "had not ended 0.05 s after the last arrival" in infos[-1]["reason"]
    environment.close()


def test_a_trace_that_ends_truncates_a_training_episode(tmp_path: Any) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s\n0.0\n0.5\n1.0\n1.5\n")
    environment = simulated("Route", requests=50, arrivals=f"trace:{trace}")
    _, infos, terminated, truncated = heuristic(environment)
    assert (terminated, truncated) == (False, True)
    assert infos[-1]["reason"] == "the arrivals have ended"
    assert len(infos) == 5
    environment.close()


def test_options_of_a_reset_hold_for_one_episode() -> None:
    environment = simulated("Route", requests=5)
    environment.reset(seed=1)
    rate = environment.unwrapped.scenario.traffic.rate
    environment.reset(seed=1, options={"rate": 100.0})
    assert environment.unwrapped.scenario.traffic.rate == 100.0
    environment.reset(seed=1)
    assert environment.unwrapped.scenario.traffic.rate == rate
    with pytest.raises(ConfigError, match="no setting"):
        environment.reset(options={"rates": 1.0})
    with pytest.raises(ConfigError, match=r"calibration, tick_s cannot change by the episode"):
        environment.reset(options={"tick_s": 2.0, "calibration": "other"})
    environment.close()


@pytest.mark.parametrize("drop", [False, True])
def test_no_thread_is_left_behind(drop: bool) -> None:
    before = threading.active_count()
    environment = simulated("Route").unwrapped
    environment.reset(seed=1)
    environment.step(0)
    environment.reset(seed=2)
    assert threading.active_count() == before + 1
    if drop:
        del environment
    else:
        environment.close()
        environment.close()
    assert threading.active_count() == before


async def test_it_works_where_an_event_loop_is_running() -> None:
    environment = simulated("Route", requests=5)
    _, infos, _, truncated = heuristic(environment)
    assert truncated
    assert len(infos) == 6
    environment.close()


def test_the_agent_s_choice_is_where_requests_run() -> None:
    environment = simulated("Route", config=plain(), requests=10, drain=True, load=0.2)
    environment.reset(seed=1)
    over = False
    while not over:
        _, _, over, _, info = environment.step(1 if environment.unwrapped.action_masks()[1] else 0)
    lanes = [result.decision.decode for result in environment.unwrapped.results()]
    assert lanes.count(B) > 7
    assert info["invalid_actions"] == 0
    environment.close()
