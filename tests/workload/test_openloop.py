"""Open-loop runs over a fake rack in virtual time: when requests go out, what is counted, what failures do."""

from typing import Any

import pytest

from streamserve import virtual
from streamserve.build import assemble
from streamserve.config import Config, LaneConfig, SchedulerConfig
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.types import NO_SLO, Decision, Finish, LaneId, Request, Result, Slo
from streamserve.workload import openloop
from streamserve.workload.openloop import OnResult, Run
from streamserve.workload.plan import Plan, Planned
from tests.bench.slow import SlowLane
from tests.fakes import make_request

SLO = Slo(ttft_s=1.0, tpot_s=0.2)
ANNOUNCED: list[Slo] = []


def make(id: str, number: int, planned: Planned, arrived_s: float, slo: Slo) -> Request:
    ANNOUNCED.append(slo)
    assert id.endswith(f"-{number}")
    return make_request(id, planned.prompt_token_ids, planned.max_tokens, arrived_s=arrived_s, slo=slo)


def plan(*arrivals_s: float, max_tokens: int = 4) -> Plan:
    return tuple(Planned(at_s, (1, 2, 3), max_tokens, "test", SLO) for at_s in arrivals_s)


async def run(sent: Plan, lane: SlowLane, limit_s: float = 60.0, announce_slo: bool = True, **settings: Any) -> Run:
    await lane.start(lambda lane, stage: None)
    config = Config(lanes=[LaneConfig(lane.id)], router="round_robin", scheduler=SchedulerConfig(**settings))

    def open_scheduler(on_result: OnResult) -> StreamScheduler:
        return assemble(config, [lane], on_result).scheduler

    return await openloop.send(sent, open_scheduler, make, announce_slo=announce_slo, limit_s=limit_s)


def test_requests_go_out_when_the_plan_says_whatever_the_lane_does() -> None:
    made = virtual.run(run(plan(0.0, 0.5, 0.5, 2.0), SlowLane(turn_s=1.0)))
    assert [result.arrived_s - made.begun_s for result in made.results] == [0.0, 0.5, 0.5, 2.0]
    assert {result.finish for result in made.results} == {Finish.LENGTH}
    assert [result.output_tokens for result in made.results] == [4, 4, 4, 4]
    assert len(made.itl_s) == 12
    assert set(made.itl_s) == {1.0}


def test_a_run_leaves_nothing_on_the_lane() -> None:
    lane = SlowLane()
    virtual.run(run(plan(0.0, 0.1), lane))
    assert lane.idle


def test_what_outlasts_the_limit_is_ended_and_counts_as_failed() -> None:
    lane = SlowLane(turn_s=5.0)
    made = virtual.run(run(plan(0.0, 1.0), lane, limit_s=3.0))
    summary = openloop.summarise(made)
    assert (summary.requests, summary.failed, summary.e2e) == (2, 2, None)
    assert summary.goodput_per_s == 0
    assert lane.idle


def test_refused_requests_are_counted_and_the_others_go_on() -> None:
    made = virtual.run(run(plan(0.0, 0.0, 0.0), SlowLane(), max_dispatched=1, max_queued=1))
    summary = openloop.summarise(made)
    assert (summary.requests, summary.failed) == (3, 1)
    assert summary.slo_share == pytest.approx(2 / 3)


@pytest.mark.parametrize(("announce", "expected"), [(True, SLO), (False, NO_SLO)])
def test_an_slo_is_judged_by_whether_or_not_it_is_announced(announce: bool, expected: Slo) -> None:
    ANNOUNCED.clear()
    made = virtual.run(run(plan(0.0), SlowLane(turn_s=0.5), announce_slo=announce))
    assert [expected] == ANNOUNCED
    assert openloop.summarise(made).slo_share == 0


def result(number: int, first_s: float, finished_s: float, decode: str = "a") -> Result:
    return Result(
        f"r{number}",
        Decision(LaneId("a"), LaneId(decode), "test", "test"),
        prompt_tokens=3,
        output_tokens=5,
        arrived_s=float(number),
        finished_s=finished_s,
        finish=Finish.LENGTH,
        first_token_s=first_s,
    )


def test_the_figures_are_those_of_the_definitions() -> None:
    results = (result(0, 0.5, 1.3), result(1, 3.0, 3.8, decode="b"))
    summary = openloop.summarise(Run(plan(0.0, 1.0), results, 0.0, (0.1, 0.3)))
    assert summary.duration_s == pytest.approx(3.8)
    assert summary.output_tokens_per_s == pytest.approx(10 / 3.8)
    assert summary.goodput_per_s == pytest.approx(1 / 3.8)
    assert summary.lane_share == {"a": 0.5, "b": 0.5}
    assert summary.disaggregated_share == 0.5
    assert summary.ttft is not None and summary.e2e is not None and summary.tpot is not None
    assert summary.ttft.mean_s == pytest.approx((0.5 + 2.0) / 2)
    assert summary.e2e.p50_s == pytest.approx((1.3 + 2.8) / 2)
    assert summary.tpot.p99_s == pytest.approx(0.2)
    assert summary.itl == openloop.latency([0.1, 0.3])


def test_percentiles_are_linear_between_the_values() -> None:
    spread = openloop.latency([1.0, 2.0, 3.0, 4.0])
    assert spread is not None
    assert (spread.mean_s, spread.p50_s, spread.p90_s) == pytest.approx((2.5, 2.5, 3.7))
    assert openloop.latency([]) is None
