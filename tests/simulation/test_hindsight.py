"""Hindsight: replays are exact, searches repeat, never end worse than the heuristic, and find what is to be found."""

import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.reward import Weights
from streamserve.errors import ConfigError
from streamserve.flowguard import routers
from streamserve.simulation import hindsight
from streamserve.simulation.hindsight import GOALS, Episode, search
from streamserve.simulation.options import SimOptions
from streamserve.simulation.replay import Repair, Replay, Written
from streamserve.simulation.run import Simulation
from streamserve.types import Decision, Finish, LaneId, Result, Slo
from tests.simulation.test_run import CALIBRATION, A, B, config, planned

PLAN = tuple(planned(n, 0.1 * n, prompt=20 + 160 * (n % 3), output=5 + 10 * (n % 4)) for n in range(12))
UNLIKE = SimOptions(seed=3, speeds={B: 0.4})
EPISODE = Episode(PLAN, config(), CALIBRATION, UNLIKE)


def flowguard(episode: Episode) -> tuple[Simulation, Written]:
    return episode.recorded(routers.build("flowguard", episode.config.stream_pairs()))


def times(made: Simulation) -> list[tuple[float | None, float]]:
    return [(each.first_token_s, each.finished_s) for each in made.run.results]


@pytest.mark.parametrize("options", [UNLIKE, replace(UNLIKE, failures=((1.0, A),), restart_s=0.5)])
def test_a_replay_is_the_run_itself(options: SimOptions) -> None:
    episode = replace(EPISODE, options=options)
    made, written = flowguard(episode)
    if options.failures:
        assert max(len(each) for each in written.values()) > 1
    for router in (Replay(written, episode.config), Repair(written, episode.config), Repair({}, episode.config)):
        assert times(episode.run(router)) == times(made)


def test_what_cannot_be_followed_goes_elsewhere() -> None:
    episode = replace(EPISODE, options=replace(UNLIKE, failures=((0.0, A),), restart_s=60.0))
    _, written = flowguard(EPISODE)
    onto_a = {each: [Decision(A, A, "test", "")] for each in written}
    made = episode.run(Replay(onto_a, episode.config))
    assert {each.finish for each in made.run.results} == {Finish.LENGTH}
    assert {each.decision.decode for each in made.run.results if each.decision is not None} == {B}


def test_fewer_decisions_than_requests_are_repaired() -> None:
    _, written = flowguard(EPISODE)
    first = next(iter(written))
    moved = B if written[first][0].decode == A else A
    made, again = EPISODE.recorded(Repair({first: [Decision(moved, moved, "test", "")]}, EPISODE.config))
    assert (again[first][0].prefill, again[first][0].decode) == (moved, moved)
    assert {each.finish for each in made.run.results} == {Finish.LENGTH}


@pytest.mark.parametrize("goal", GOALS)
def test_a_search_repeats_and_every_step_of_it_is_better(goal: str) -> None:
    found = search(EPISODE, 12, GOALS[goal])
    assert found.steps == search(EPISODE, 12, GOALS[goal]).steps
    values = [value for _, value in found.steps]
    assert values == sorted(set(values), reverse=True)
    assert GOALS[goal].value(found.heuristic.run.results) == values[0]
    assert GOALS[goal].value(found.best.run.results) == values[-1]
    assert found.gain == 1 - values[-1] / values[0]


def test_with_other_luck_the_same_decisions_meet_the_same_requests() -> None:
    found = search(EPISODE, 12, GOALS["mean"])
    pairs = hindsight.elsewhere(EPISODE, found, 2)
    for heuristic, replayed in pairs:
        assert {each.request_id: each.output_tokens for each in heuristic.run.results} == {
            each.request_id: each.output_tokens for each in replayed.run.results
        }
        placed = {each.request_id: each.decision for each in replayed.run.results}
        for request_id, (decision,) in found.written.items():
            made = placed[request_id]
            assert made is not None and (made.prefill, made.decode) == (decision.prefill, decision.decode)
    assert times(pairs[0][0]) != times(pairs[1][0]) != times(found.heuristic)


def test_what_can_be_won_is_found() -> None:
    def on_a(results: Sequence[Result]) -> float:
        return 1.0 + sum(each.decision is not None and each.decision.decode == A for each in results)

    found = search(EPISODE, 14, hindsight.Goal(on_a, 0.0))
    assert found.gain > 0.1 and on_a(found.best.run.results) < on_a(found.heuristic.run.results)


def test_no_try_is_the_heuristic() -> None:
    found = search(EPISODE, 0, GOALS["mean"])
    assert found.gain == 0.0 and times(found.best) == times(flowguard(EPISODE)[0])


def test_more_tries_find_no_less() -> None:
    few, many = (search(EPISODE, tries, GOALS["mean"]) for tries in (4, 8))
    assert many.steps[: len(few.steps)] == few.steps


def test_other_processes_can_search() -> None:
    assert pickle.loads(pickle.dumps((EPISODE, GOALS["p99"]))) == (EPISODE, GOALS["p99"])
    found = search(EPISODE, 1, GOALS["mean"])
    assert pickle.loads(pickle.dumps(found)).steps == found.steps


@given(st.integers(1, 300), st.integers(0, 10_000))
def test_places_are_in_range_in_order_and_a_quarter_at_most(count: int, seed: int) -> None:
    places = hindsight.near(np.ones(count), np.random.default_rng(seed))
    assert places == sorted(set(places))
    assert places[0] >= 0 and places[-1] < count and len(places) <= max(1, count // 4)


@given(st.integers(0, 10_000))
def test_only_the_named_requests_change(seed: int) -> None:
    pairs = config().stream_pairs()
    written = {str(n): [Decision(*pairs[n % len(pairs)], "r", "", at_s=float(n))] for n in range(8)}
    new = hindsight.changed(written, ["2", "5"], pairs, np.random.default_rng(seed))
    moved = {key for key in written if new[key] is not written[key]}
    assert moved and moved <= {"2", "5"}
    assert all((new[key][0].prefill, new[key][0].decode) in pairs for key in new)


def result(e2e_s: float, finish: Finish, slo: Slo) -> Result:
    lane = LaneId("a")
    return Result("r", Decision(lane, lane, "r", ""), 10, 11, 0.0, e2e_s, finish, first_token_s=1.0, slo=slo)


def test_the_cost_is_that_of_the_reward() -> None:
    assert Weights().failure == hindsight.FAILURE_S and Weights().slo == 1.0
    tight, none = Slo(ttft_s=0.5, tpot_s=0.05), Slo()
    served = [result(2.0, Finish.STOP, tight), result(3.0, Finish.LENGTH, none), result(4.0, Finish.ERROR, none)]
    assert hindsight.cost(served) == 2.0 + 3.0 + 4.0 + 2 + 30.0


def test_names() -> None:
    assert hindsight.parse("flowguard") is None
    assert hindsight.parse("hindsight:40") == (40, GOALS["mean"])
    assert hindsight.parse("hindsight:40:p99") == (40, GOALS["p99"])
    for wrong in ("hindsight", "hindsight:", "hindsight:many", "hindsight:4:p50", "hindsight:4:p99:1"):
        with pytest.raises(ConfigError, match="hindsight:TRIES"):
            hindsight.parse(wrong)
