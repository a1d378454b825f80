"""Spec over simulated lanes: one step per tick, a control per lane."""

import numpy as np
import pytest

from streamserve.policy.lane_codec import LANES
from tests.envs.scenes import config, heuristic, plain, simulated


def test_ticks_come_evenly_and_rewards_are_latencies() -> None:
    environment = simulated("Spec", requests=20, drain=True, tick_s=0.5)
    total, infos, terminated, _ = heuristic(environment)
    assert terminated
    assert [info["dt"] for info in infos[1:-1]] == pytest.approx([0.5] * (len(infos) - 2))
    assert -total == pytest.approx(sum(result.e2e_s for result in environment.unwrapped.results()))
    environment.close()


def test_a_control_holds_until_the_next_tick() -> None:
    environment = simulated("Spec", requests=6)
    environment.reset(seed=1)
    off, fixed = 3, 5
    action = np.array([off, fixed] + [0] * 6)
    for _ in range(3):
        observation, *_, info = environment.step(action)
    lanes, places = observation["lanes"], LANES.places
    assert lanes[0, places["mode_off"]] == 1.0
    assert (lanes[1, places["mode_fixed"]], lanes[1, places["depth"]]) == (1.0, 0.5)
    assert info["invalid_actions"] == 0
    environment.close()


def test_lanes_that_draft_nothing_and_lanes_that_are_not_there_cannot_be_set() -> None:
    environment = simulated("Spec", config=plain(), requests=4)
    environment.reset(seed=1)
    assert environment.unwrapped.action_masks().reshape(8, -1)[:, 1:].sum() == 0
    *_, info = environment.step(np.array([1, 2, 0, 0, 0, 0, 0, 3]))
    assert info["invalid_actions"] == 2
    assert info["heuristic"].tolist() == [0] * 8
    environment.close()


def test_depth_changes_what_an_episode_costs() -> None:
    costs = {}
    for name, index in (("off", 3), ("fixed 8", 6)):
        environment = simulated("Spec", config=config(), requests=20, drain=True, workload="32:64", load=0.3)
        environment.reset(seed=1)
        over, total = False, 0.0
        while not over:
            _, reward, over, _, _ = environment.step(np.array([index, index] + [0] * 6))
            total -= reward
        costs[name] = total
        environment.close()
    assert costs["fixed 8"] < costs["off"]
