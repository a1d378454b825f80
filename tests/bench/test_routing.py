"""The routing benchmark: systems, plans, budgets, resuming, and its report, over fake lanes."""

import math
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.bench import ranking, routing, systems
from streamserve.bench.disturb import Disturbance
from streamserve.bench.figures import Spread
from streamserve.bench.planner import Cell, Planner
from streamserve.bench.ranking import Outcome, Served
from streamserve.config import Config, LaneConfig
from streamserve.errors import ConfigError
from streamserve.policy.switch import PolicySwitch
from streamserve.types import Decision, Finish, LaneId, Prediction, Result
from streamserve.workload import prompts
from streamserve.workload.openloop import Latency, Run, Summary
from streamserve.workload.plan import Plan
from streamserve.workload.prompts import Prompt


def options(*more: str) -> Namespace:
    return routing.arguments().parse_args(["--prompts", "p", "--requests", "8", *more])


def planner(*more: str) -> Planner:
    rng = np.random.default_rng(0)
    sets = {"short": prompts.synthetic(20, rng, (1, 3)), "long": prompts.synthetic(20, rng, (20, 30))}
    return Planner(sets, encode, routing.mix(options(*more)))


def encode(prompt: Prompt) -> list[int]:
    return [ord(letter) for _, text in prompt.messages for letter in text]


def test_a_system_is_a_router_with_an_order_and_a_binding() -> None:
    assert systems.parse("flowguard", "fcfs").order == "fcfs"
    made = systems.parse("least_loaded+shortest_work+direct", "fcfs")
    assert (made.router, made.order, made.binding) == ("least_loaded", "shortest_work", "direct")
    assert systems.parse("flowguard+own", "fcfs").over(systems.configs(2, 2, None, [])["lanes"]).pairs == "own"
    with pytest.raises(ConfigError, match="none of direct, late, own or an order"):
        systems.parse("flowguard+fastest", "fcfs")


def test_a_policy_comes_last_whatever_its_folder_is_called() -> None:
    made = systems.parse("flowguard+late+policy=a+b/c d", "fcfs", live=True)
    assert (made.router, made.binding, made.policy) == ("flowguard", "late", "a+b/c d")
    assert made.over(Config(lanes=[LaneConfig(LaneId("a"))])).policy.source == "a+b/c d"
    plain = systems.parse("flowguard", "fcfs").over(Config(lanes=[LaneConfig(LaneId("a"))]))
    assert plain.policy.source == "heuristic"
    with pytest.raises(ConfigError, match="streamserve evaluate"):
        systems.parse("flowguard+policy=here", "fcfs")


def test_lanes_and_the_plain_engine_get_the_same_overrides() -> None:
    sets = systems.configs(4, 2, 3, ["engine.max_running=16"])
    assert [lane.id for lane in sets["lanes"].lanes] == ["lane-0", "lane-1", "lane-2", "lane-3"]
    assert sets["lanes"].share_cores
    assert len(sets["lanes"].stream_pairs()) == 16
    assert {config.engine.max_running for config in sets.values()} == {16}
    assert (sets["plain"].speculation.mode, sets["plain"].speculation.depth) == ("fixed", 3)
    assert systems.configs(2, 2, 0, [])["plain"].speculation.method == "none"
    assert list(systems.configs(2, 2, None, [])) == ["lanes"]
    assert not systems.configs(2, 2, None, [])["lanes"].share_cores


def test_a_plan_is_the_same_for_every_system_and_differs_between_repeats() -> None:
    cell = Cell("gamma:5", 0.8, 0)
    made = planner().cell(cell, 2.0, 20)
    assert made == planner().cell(cell, 2.0, 20)
    assert made != planner().cell(Cell("gamma:5", 0.8, 1), 2.0, 20)
    assert made[-1].arrival_s == pytest.approx(20 / 1.6)
    assert Counter(len(each.prompt_token_ids) > 500 for each in made) == {True: 10, False: 10}
    assert {each.slo.ttft_s for each in made} == {3.0}


def test_output_lengths_scale() -> None:
    full, half = (planner("--length-scale", scale).burst(10, 0) for scale in ("1", "0.5"))
    assert [each.max_tokens for each in half] == [max(2, round(each.max_tokens / 2)) for each in full]
    assert {each.arrival_s for each in full} == {0.0}


def test_conversations_repeat_their_history() -> None:
    made = planner("--multi-turn", "--turns", "3").cell(Cell("poisson", 0.5, 0), 2.0, 12)
    assert len(made) == 12
    continued = [
        any(other is not each and other.prompt_token_ids[: len(each.prompt_token_ids)] == each.prompt_token_ids
            for other in made)
        for each in made
    ]  # fmt: skip
    assert sum(continued) == 8


@given(st.floats(60, 36_000), st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.integers(1, 60))
def test_runs_fit_the_time_or_have_the_fewest_requests(seconds: float, rates: list[float], runs: int) -> None:
    n = routing.requests_within(seconds, rates, runs)
    needed_s = sum(runs * (n / rate + routing.TAIL_S) for rate in rates)
    assert n == routing.FEWEST or needed_s <= seconds


def test_every_repeat_is_complete_and_interleaved() -> None:
    names = ("flowguard", "least_loaded", "plain", "round_robin")
    made = list(routing.rounds(names, ["poisson", "gamma:5"], [0.5, 0.9], 3, seed=0))
    assert [cell.repeat for cell, _ in made] == [0] * 4 + [1] * 4 + [2] * 4
    assert {tuple(sorted(order)) for _, order in made} == {names}
    assert len({tuple(order) for _, order in made}) > 3


def check(*more: str) -> None:
    given = options(*more)
    routing.check(routing.serving(given), given.arrivals, given.loads)


def test_mistakes_are_found_before_lanes_start(tmp_path: Path) -> None:
    for more in (["--arrivals", "often"], ["--arrivals", f"trace:{tmp_path / 'no.csv'}"], ["--loads", "0"]):
        with pytest.raises(ConfigError):
            check(*more)
    with pytest.raises(ConfigError):
        check("--routers", "flowguard+x")
    check()


def summary(e2e_s: float, goodput: float = 1.0) -> Summary:
    each = Latency(e2e_s, e2e_s, e2e_s, 2 * e2e_s)
    return Summary(4, 0, 10.0, 0.4, 50.0, goodput, 1.0, each, each, each, each, {LaneId("a"): 1.0}, 0.25)


def outcome(system: str, repeat: int, e2e_s: float, gap_s: float = 0.0, goodput: float = 1.0) -> Outcome:
    return Outcome("gamma:5", 0.8, system, repeat, summary(e2e_s, goodput), gap_s, gap_s, ())


def test_the_report_compares_within_repeats_and_with_the_best_other() -> None:
    slow_machine = [(0, 1.0), (1, 2.0), (2, 4.0)]
    outcomes = [
        outcome(system, repeat, factor * each)
        for repeat, factor in slow_machine
        for system, each in (("flowguard", 1.0), ("random", 4.0), ("round_robin", 2.0))
    ]
    text = ranking.text(outcomes, "flowguard")
    assert "| round_robin | 0.5 (0.5 .. 0.5, n=3) |" in text
    assert "| best other router | 0.5 (0.5 .. 0.5, n=3) round_robin |" in text
    assert ranking.best_other(ranking.cells(outcomes)["gamma:5", 0.8], "flowguard", "E2E p99, s") == "round_robin"


def test_goodput_is_better_when_higher_and_zero_has_no_ratio() -> None:
    outcomes = [outcome("a", 0, 1.0), outcome("b", 0, 1.0, goodput=2.0), outcome("c", 0, 1.0, goodput=0.0)]
    cell = ranking.cells(outcomes)["gamma:5", 0.8]
    assert ranking.best_other(cell, "a", "goodput, 1/s") == "b"
    assert ranking.compare(cell["a"], cell["c"], "goodput, 1/s") is None


def lossy(system: str, repeat: int, e2e_s: list[float], failed: int) -> Outcome:
    """A run in which some requests were turned away at once."""
    ends = [(each, "length") for each in e2e_s] + [(0.0, "error")] * failed
    made = outcome(system, repeat, max(e2e_s, default=0.0))
    latency = made.summary.e2e if e2e_s else None
    told = replace(made.summary, requests=len(ends), failed=failed, e2e=latency, ttft=latency)
    served = tuple(
        Served("chat", 0.0, 5, 5, took_s, took_s / 2 if end == "length" else None, 0.1, True, end, "a", "a")
        for took_s, end in ends
    )
    return replace(made, summary=told, requests=served)


def test_what_failed_is_infinitely_late_in_p99_and_marks_means() -> None:
    outcomes = [lossy("a", 0, [1.0] * 9, 1), outcome("b", 0, 2.0)]
    text = ranking.text(outcomes, "b")
    row = next(line for line in text.splitlines() if line.startswith("| a |"))
    assert row.startswith("| a | 1 (1 .. 1, n=1) * | inf (inf .. inf, n=1) | 1 (1 .. 1, n=1) * | inf (inf .. inf, n=1)")
    assert row.endswith("| 1 * | 1 | 25 % |")
    assert "| a | 2 (2 .. 2, n=1) * | 0 (0 .. 0, n=1) | 2 (2 .. 2, n=1) * | 0 (0 .. 0, n=1) |" in text
    assert "*" not in next(line for line in text.splitlines() if line.startswith("| b |"))


def test_one_failure_in_many_leaves_the_p99_of_the_others() -> None:
    (run,) = [lossy("a", 0, [1.0] * 150, 1)]
    assert ranking.METRICS["E2E p99, s"](run) == 1.0 and ranking.METRICS["TTFT p99, s"](run) == 0.5


def test_a_reference_that_served_nothing_is_the_worst_and_not_left_out() -> None:
    mine = {0: outcome("a", 0, 1.0), 1: lossy("a", 1, [], 4), 2: outcome("a", 2, 1.0)}
    other = {repeat: outcome("b", repeat, 2.0) for repeat in range(3)}
    found = ranking.compare(mine, other, "E2E mean, s")
    assert found == Spread(0.5, 0.5, math.inf, 3)
    back = ranking.compare(other, mine, "E2E mean, s")
    assert back == Spread(2.0, 1.0, 2.0, 3)
    both = ranking.compare({1: mine[1]}, {1: mine[1]}, "E2E mean, s")
    assert both == Spread(1.0, 1.0, 1.0, 1)


def test_a_request_that_was_turned_away_is_in_no_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(
        "streamserve.bench.report.plot", lambda path, t, a, series: drawn.update({path.name: series}) or True
    )
    run = lossy("a", 0, [1.0, 3.0], 2)
    assert ranking.served_e2e_s([run]) == [1.0, 3.0]
    assert ranking.plots([run, lossy("b", 0, [], 2)], tmp_path)
    assert drawn["e2e-gamma_5-0.8.png"]["a"] == ([1.0, 3.0], [0.5, 1.0])
    assert drawn["load-gamma_5.png"] == {"a": ([0.8], [3.0])}


def test_a_run_over_a_pause_does_not_count() -> None:
    outcomes = [outcome("a", 0, 1.0), outcome("a", 1, 9.0, gap_s=5.0)]
    text = ranking.text(outcomes, "a")
    assert text.startswith("1 of 2 runs are left out")
    assert "| a | 1 (1 .. 1, n=1) |" in text


class Scripted(routing.Bench):
    """A bench whose runs are made up; `served` counts them."""

    def __init__(self, planner: Planner, options: Namespace) -> None:
        super().__init__(None, planner, routing.serving(options))  # type: ignore[arg-type]
        self.served: list[str] = []

    async def serve(
        self,
        system: systems.System,
        sent: Plan,
        disturbances: Sequence[Disturbance] = (),
        switch: PolicySwitch | None = None,
    ) -> Run:
        assert not disturbances and switch is None
        self.served.append(system.name)
        decision = Decision(LaneId("a"), LaneId("b"), system.router, "test", prediction=Prediction(0.4, 0.1, 2.0))
        results = tuple(
            Result(f"r{i}", decision, 3, 100, each.arrival_s, each.arrival_s + 2.0, Finish.LENGTH,
                   each.arrival_s + 0.5)
            for i, each in enumerate(sent)
        )  # fmt: skip
        return Run(sent, results, 0.0, (0.1,))


async def test_a_benchmark_goes_on_where_it_stopped(tmp_path: Path) -> None:
    given = options("--out", str(tmp_path), "--repeats", "2", "--loads", "0.5", "--routers", "flowguard", "random")
    first = Scripted(planner(), given)
    outcomes = await routing.measure(first, planner(), given)
    assert len(first.served) == 1 + 2 * 2 * 2
    next((tmp_path / "runs").glob("*-random.json")).unlink()
    second = Scripted(planner(), given)
    assert await routing.measure(second, planner(), given) == outcomes
    assert second.served == ["random"]
    assert {each.summary.slo_share for each in outcomes} == {1.0}
    assert outcomes[0].requests[0].predicted_ttft_s == 0.4


async def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    common = ["--out", str(tmp_path), "--repeats", "1", "--loads", "0.5", "--routers", "flowguard"]
    given, other = options(*common), options(*common, "--seed", "1")
    await routing.measure(Scripted(planner(), given), planner(), given)
    with pytest.raises(ConfigError, match="other settings"):
        await routing.measure(Scripted(planner(), other), planner(), other)


def test_a_run_s_configuration_changes_router_and_order_only() -> None:
    config = Config(lanes=[LaneConfig(LaneId("a"))])
    ready = Namespace(sets={"lanes": Namespace(config=config), "plain": Namespace(config=config)})
    made = systems.parse("random+slack", "fcfs").config(ready)  # type: ignore[arg-type]
    assert (made.router, made.scheduler.order, made.scheduler.backlog_s) == ("random", "slack", 1.0)
    assert made.engine == config.engine
    plain = systems.PLAIN_ENGINE.config(ready)  # type: ignore[arg-type]
    assert (plain.router, plain.scheduler.backlog_s) == ("round_robin", None)
