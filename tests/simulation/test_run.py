"""Simulated runs: nothing is lost, causes come first, chance repeats, and what the options say happens."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.config import Config, LaneConfig, SchedulerConfig
from streamserve.flowguard import routers
from streamserve.lanes.sim.work import SimWork
from streamserve.protocols import Router
from streamserve.signals import Signals
from streamserve.simulation.options import SimOptions
from streamserve.simulation.run import Simulation, maker, simulate
from streamserve.types import NO_SLO, Decision, Finish, LaneId, Request, Result
from streamserve.workload.plan import Plan, Planned
from tests import calibrations

A, B = LaneId("a"), LaneId("b")
CALIBRATION = calibrations.example()
QUIET = SimOptions(noise=False)
FEW = settings(max_examples=20, deadline=None)


def config(*lanes: LaneId, router: str = "flowguard") -> Config:
    return Config(
        lanes=[LaneConfig(lane) for lane in lanes or (A, B)],
        model="example",
        router=router,
        scheduler=SchedulerConfig(restart_backoff_s=(0.5,)),
    )


def planned(number: int, arrival_s: float, prompt: int = 60, output: int = 20, workload: str = "mix") -> Planned:
    return Planned(arrival_s, tuple(range(1000 * number, 1000 * number + prompt)), output, workload)


def plan(*arrivals_s: float, prompt: int = 60, output: int = 20) -> Plan:
    return tuple(planned(number, at_s, prompt, output) for number, at_s in enumerate(arrivals_s))


def run(
    sent: Plan, options: SimOptions = QUIET, over: Config | None = None, router: Router | None = None
) -> Simulation:
    return simulate(sent, over or config(), CALIBRATION, options, router)


ENTRIES = st.tuples(
    st.floats(0, 3), st.integers(1, 300), st.integers(1, 40), st.sampled_from(["chat", "code", "other"])
)
PLANS = st.lists(ENTRIES, min_size=1, max_size=12).map(
    lambda entries: tuple(planned(number, *entry) for number, entry in enumerate(sorted(entries)))
)
OPTIONS = st.builds(
    SimOptions,
    seed=st.integers(0, 5),
    noise=st.booleans(),
    speeds=st.sampled_from([{}, {A: 0.25}]),
    staleness_s=st.sampled_from([0.0, 0.3]),
    failures=st.sampled_from([(), ((0.7, A),), ((0.2, A), (0.5, B), (1.5, A))]),
    restart_s=st.just(0.8),
    acceptance_drift=st.sampled_from([(), ((1.0, 0.2),)]),
)


class Shown:
    """A router that keeps what it is asked."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.requests: list[Request] = []
        self.signals: list[Signals] = []

    def route(self, request: Request, signals: Signals) -> Decision:
        self.requests.append(request)
        self.signals.append(signals)
        return self._router.route(request, signals)

    def learn(self, result: Result) -> None:
        self._router.learn(result)


def shown(name: str) -> Shown:
    return Shown(routers.build(name, config().stream_pairs()))


@FEW
@given(PLANS, OPTIONS, st.sampled_from(["flowguard", "random", "least_loaded"]))
def test_every_request_ends_once_and_in_the_order_of_causes(sent: Plan, options: SimOptions, router: str) -> None:
    made = run(sent, options, config(router=router))
    assert len(made.run.results) == len(sent)
    for each, result in zip(sent, made.run.results, strict=True):
        assert result.arrived_s == made.run.begun_s + each.arrival_s
        assert (result.finish, result.output_tokens) == (Finish.LENGTH, each.max_tokens)
        assert result.dispatched_s is not None and result.first_token_s is not None
        # A timer may fire early by the loop's resolution.
        assert result.arrived_s - 1e-9 <= result.dispatched_s
        assert result.arrived_s < result.first_token_s <= result.finished_s
        assert result.attempts > 1 or result.dispatched_s < result.first_token_s
    if options.staleness_s:
        return
    assert all(lane.running == lane.waiting == lane.prefill_queued_tokens == 0 for lane in made.lanes.values())
    if not options.failures:
        assert sum(lane.output_tokens_total for lane in made.lanes.values()) >= sum(each.max_tokens for each in sent)


@FEW
@given(PLANS, OPTIONS)
def test_the_same_seed_gives_the_same_results(sent: Plan, options: SimOptions) -> None:
    assert run(sent, options) == run(sent, options)


def test_another_seed_gives_others() -> None:
    sent = plan(0.0, 0.1, 0.2)
    assert run(sent, SimOptions(seed=1)).run.results != run(sent, SimOptions(seed=2)).run.results


def test_every_router_is_sent_the_same_requests_with_the_same_luck() -> None:
    sent = plan(0.0, 0.4, 0.5, 2.0)
    asked = [shown("round_robin"), shown("flowguard")]
    for router in asked:
        run(sent, SimOptions(seed=3), router=router)
    one, other = (sorted(router.requests, key=lambda request: request.arrived_s) for router in asked)
    assert one == other
    assert len({request.payload.seed for request in one}) == 4


def test_an_idle_system_serves_each_request_as_if_it_were_alone() -> None:
    alone = run(plan(0.0)).run.results[0]
    for result in run(plan(0.0, 60.0, 120.0), over=config(A)).run.results:
        assert result.ttft_s == pytest.approx(alone.ttft_s)


def test_crowded_lanes_are_slower() -> None:
    def mean_s(gap_s: float) -> float:
        results = run(plan(*(gap_s * i for i in range(20)))).run.results
        return sum(result.e2e_s for result in results) / len(results)

    assert mean_s(0.05) > 1.3 * mean_s(10.0)


def test_a_lane_is_as_fast_as_its_speed() -> None:
    options = replace(QUIET, acceptance_scale=0.0)
    slow = run(plan(0.0), replace(options, speeds={A: 0.25}), config(A)).run.results[0]
    usual = run(plan(0.0), options, config(A)).run.results[0]
    assert slow.tpot_s is not None and usual.tpot_s is not None
    assert slow.tpot_s == pytest.approx(4 * usual.tpot_s, rel=0.1)


def test_drafts_that_are_no_longer_right_cost_time() -> None:
    sent = plan(*(20.0 * i for i in range(6)), output=60)
    usual, worse = (run(sent, replace(QUIET, acceptance_drift=drift)) for drift in ((), ((50.0, 0.0),)))
    before, after = slice(0, 2), slice(3, 6)
    assert [r.e2e_s for r in worse.run.results[before]] == [r.e2e_s for r in usual.run.results[before]]
    assert sum(r.e2e_s for r in worse.run.results[after]) > 1.1 * sum(r.e2e_s for r in usual.run.results[after])


def test_a_lane_that_dies_comes_back_and_its_requests_go_on_elsewhere() -> None:
    sent = plan(0.0, 0.1, 0.2, 0.3, 8.0, output=40)
    made = run(sent, replace(QUIET, failures=((0.8, A),), restart_s=1.0), config(router="round_robin"))
    assert {result.finish for result in made.run.results} == {Finish.LENGTH}
    assert max(result.attempts for result in made.run.results) == 2
    assert made.restarts == 1
    assert made.run.results[-1].attempts == 1


def test_stale_signals_are_as_old_as_the_option_says() -> None:
    fresh, stale = shown("random"), shown("random")
    sent = plan(*(0.1 * i for i in range(30)))
    run(sent, router=fresh)
    run(sent, replace(QUIET, staleness_s=0.5), router=stale)

    def least_age_s(router: Shown) -> float:
        return min(seen.at_s - lane.at_s for seen in router.signals for lane in seen.lanes.values() if lane.running)

    assert least_age_s(fresh) < 0.1
    assert least_age_s(stale) >= 0.5


def test_a_request_knows_its_future() -> None:
    make = maker(CALIBRATION)
    entry = replace(planned(1, 0.0, output=30, workload="code"), output_tokens=12)
    assert make("r", 5, entry, 2.0, NO_SLO).payload == SimWork(12, "code", 5)
    unknown = make("r", 5, planned(1, 0.0, output=30, workload="poems"), 2.0, NO_SLO)
    assert unknown.payload == SimWork(30, "mix", 5)
    assert (unknown.arrived_s, unknown.max_tokens, unknown.continuable) == (2.0, 30, True)
    assert maker(CALIBRATION, seed=1)("r", 5, entry, 2.0, NO_SLO).payload.seed != 5


def test_a_request_has_the_drafts_of_a_recorded_answer_or_its_own() -> None:
    recorded = msgspec.structs.replace(CALIBRATION, answers={"code": ("0102", "00"), "chat": ("--",)})
    entry = planned(1, 0.0, output=3, workload="code")
    make = maker(recorded)
    found = {tuple(make("r", number, entry, 0.0, NO_SLO).payload.found) for number in range(40)}
    assert found == {(None, (0, 1), (0, 2)), (None, (0, 0), (0, 0))}
    assert make("r", 3, entry, 0.0, NO_SLO).payload == make("r", 3, entry, 9.0, NO_SLO).payload
    unknown = [make("r", number, planned(1, 0.0, 3, workload="poems"), 0.0, NO_SLO).payload for number in range(40)]
    assert {each.workload for each in unknown} == {"mix"}
    assert len({tuple(each.found) for each in unknown}) == 3
    own = maker(recorded, drafts=[[None, (1, 1), None]])("r", 0, entry, 0.0, NO_SLO).payload
    assert own.found == [None, (1, 1), None]


def test_drafts_that_are_replayed_are_what_a_run_s_speed_comes_from() -> None:
    sent = plan(0.0, 60.0, output=60)
    slow, fast = ([[None, *[draft] * 60]] * 2 for draft in ((0, 0), (0, 8)))
    took_s = [run(sent, replace(QUIET, drafts=drafts)).run.results[0].e2e_s for drafts in (slow, fast)]
    assert took_s[1] < 0.5 * took_s[0]


def test_a_request_may_stop_by_itself() -> None:
    (result,) = run((replace(planned(0, 0.0, output=30), output_tokens=12),)).run.results
    assert (result.finish, result.output_tokens) == (Finish.STOP, 12)


def test_slow_lanes_that_do_their_work_are_never_doubted() -> None:
    # On slow lanes a step of long prompts takes several seconds, and most of a burst comes in the middle of one.
    slow = SimOptions(speeds={A: 0.02, B: 0.02})
    long = [planned(number, 2.0 * number, prompt=600, output=30) for number in range(4)]
    short = [planned(10 + number, 3.0 + 0.5 * number, prompt=40, output=20) for number in range(30)]
    sent = tuple(sorted([*long, *short], key=lambda each: each.arrival_s))
    made = run(sent, slow)
    reasons = [result.decision.reason for result in made.run.results if result.decision is not None]
    assert len(reasons) == len(sent)
    assert not [reason for reason in reasons if "doubts" in reason]
