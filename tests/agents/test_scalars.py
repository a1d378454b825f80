"""What TensorBoard shows of the environments."""

from typing import Any

import gymnasium as gym
import pytest

from agents.recorder import Record, Recorder, merged
from agents.scalars import scalars
from agents.twin import Twin
from streamserve.types import Decision, Finish, LaneId, Result
from tests.agents.toy import Toy

WEIGHTS = {"ttft": 1.0, "decode": 2.0, "slo": 3.0, "failure": 30.0, "scale": 10.0}


def play(env: gym.Env[Any, Any], lane: int) -> None:
    env.reset(seed=1)
    ended = False
    while not ended:
        *_, terminated, truncated, info = env.step(lane)
        ended = terminated or truncated
        assert info == {}, "what is in info is copied at every step"


def result(place: int, e2e_s: float, finish: Finish = Finish.LENGTH) -> tuple[int, Result]:
    lane = LaneId(f"lane-{place}")
    decision = Decision(lane, lane, "agent", "", max_depth=2 if place else None)
    return place, Result("r", decision, 8, 11, 0.0, e2e_s, finish, first_token_s=1.0)


def test_a_recorder_counts_steps_costs_and_agreement() -> None:
    env = Recorder(Toy(requests=20))
    play(env, lane=0)
    record = env.take()
    assert record.steps == 20 and record.agreed == 10
    assert record.costs["ttft"] == pytest.approx(-record.reward)
    assert env.take().steps == 0


def test_a_recorder_sees_what_a_twin_took_off() -> None:
    env = Recorder(Twin(Toy(requests=20), Toy(requests=20)))
    play(env, lane=0)
    record = env.take()
    assert record.twin_reward < 0
    assert record.reward + record.twin_reward == pytest.approx(-record.costs["ttft"])


def test_reward_terms_are_weighted_means_per_step() -> None:
    record = Record(
        steps=4, costs={"ttft": 8.0, "decode": 4.0, "slo": 2.0, "failures": 1.0}, reward=1.0, twin_reward=-2.0
    )
    tags = scalars(record, WEIGHTS)
    assert [tags[f"reward/{term}"] for term in ("ttft", "decode", "slo", "failure")] == pytest.approx(
        [-0.2, -0.2, -0.15, -0.75]
    )
    assert tags["reward/own"] == pytest.approx(-1.3)
    assert (tags["reward/twin"], tags["reward/twin_gain"]) == (-0.5, 0.25)


def test_shaping_is_told_apart_from_what_is_gained() -> None:
    shaped = Record(steps=4, reward=1.0, twin_reward=-2.0, shaping=3.0)
    tags = scalars(merged([shaped, shaped]), WEIGHTS)
    assert (tags["reward/twin_gain"], tags["reward/shaping"]) == (-0.5, 0.75)


def test_latencies_are_those_of_finished_requests_and_shares_those_of_lanes() -> None:
    record = Record(steps=4, results=[result(0, 2.0), result(0, 3.0), result(1, 4.0), result(1, 99.0, Finish.ERROR)])
    tags = scalars(record, WEIGHTS)
    assert tags["serve/e2e_p50_ms"] == 3000.0 and tags["serve/ttft_p99_ms"] == 1000.0
    assert tags["serve/failed_share"] == 0.25 and tags["serve/slo_attainment"] == 0.75
    assert (tags["route/lane_share_0"], tags["route/lane_share_1"]) == (0.5, 0.5)
    assert tags["route/share_entropy"] == pytest.approx(1.0)
    assert tags["spec/capped_share"] == 0.5


def test_depth_is_draft_tokens_per_request_and_step() -> None:
    # 100 tokens, 40 of them drafted and accepted: 60 steps of one request, 90 draft tokens verified in them.
    tags = scalars(Record(steps=1, drafted=90, accepted=40, written=100), WEIGHTS)
    assert tags["spec/depth_mean"] == 1.5
    assert tags["spec/accept_rate"] == pytest.approx(40 / 90)
    assert tags["spec/tokens_per_step"] == pytest.approx(100 / 60)


def test_records_of_several_environments_add_up() -> None:
    env = Recorder(Toy(requests=20))
    play(env, lane=0)
    one = env.take()
    both = merged([one, one])
    assert both.steps == 40 and both.costs["ttft"] == pytest.approx(2 * one.costs["ttft"])
    assert scalars(both, WEIGHTS)["reward/ttft"] == pytest.approx(scalars(one, WEIGHTS)["reward/ttft"])
