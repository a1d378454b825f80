"""The bound is of the very episodes that policies are compared in, and the report has it beside them."""

from functools import partial

import pytest

from agents import oracle, report
from agents.comparison import compare
from agents.oracle import Search
from agents.trial import heuristic, play
from streamserve.errors import ConfigError
from streamserve.simulation import hindsight
from streamserve.simulation.hindsight import GOALS
from streamserve.types import Slo
from tests.envs import scenes

SEEDS = [5, 6]
TIGHT = Slo(1.0, 0.03)
MAKE = partial(scenes.simulated, "Route", requests=16, drain=True, arrivals="gamma:5", options={"speeds": {"b": 0.4}})


def test_its_episode_is_the_environment_s() -> None:
    played = play(MAKE, SEEDS, heuristic(MAKE))
    for seed, each in zip(SEEDS, played, strict=True):
        found = hindsight.search(oracle.episode(MAKE, seed), 0, GOALS["mean"])
        assert hindsight.cost(found.heuristic.run.results) == pytest.approx(each.cost, rel=1e-9)


@pytest.mark.parametrize(("goal", "figure"), [("mean", "cost"), ("p99", "e2e_p99"), ("goodput", "slo_share")])
def test_it_stands_beside_every_scenario(goal: str, figure: str) -> None:
    make = partial(MAKE, slo=TIGHT)
    said: list[str] = []
    table = compare({"wild": make}, {"flowguard": heuristic, "same": heuristic}, SEEDS, TIGHT, said.append)
    made = oracle.bounded(table, {"wild": make}, Search(30, goal), TIGHT, said.append)
    assert made.policies == ["same"] and made.bound is not None and made.bound.figure == figure
    found, rival = (made.cell("wild", policy).figures for policy in ("hindsight", "flowguard"))
    sign = -1 if figure == "slo_share" else 1
    saved = [
        sign * (getattr(theirs, figure) - getattr(ours, figure)) for ours, theirs in zip(found, rival, strict=True)
    ]
    assert min(saved) > -1e-9 and max(saved) > 1e-3
    text = report.text(made)
    assert f"hindsight: {report.FIGURES[figure]}" in text and "It knew the future" in text
    assert f"+{made.gain('wild', 'hindsight', figure).value:.1%}" in text
    assert len(made.bound.lasting["wild"]) == len(SEEDS) and "| hindsight, other luck |" in text
    assert "It knew" not in report.text(table)
    assert said[-1].startswith("wild: hindsight is better by")


def test_an_unknown_goal_is_refused() -> None:
    table = compare({"wild": MAKE}, {"flowguard": heuristic}, SEEDS[:1], Slo(), lambda _line: None)
    with pytest.raises(ConfigError, match="one of mean, p99, goodput"):
        oracle.bounded(table, {"wild": MAKE}, Search(1, "p50"), Slo(), lambda _line: None)
