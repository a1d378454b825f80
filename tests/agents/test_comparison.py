"""Comparisons are paired, and they say where learning loses."""

from pathlib import Path

import numpy as np
import pytest

from agents import report
from agents.comparison import Cell, Figures, Table, compare, figures
from agents.trial import Episode, heuristic
from streamserve.types import Decision, Finish, LaneId, Result, Slo
from tests.agents.toy import Toy

RIVAL = "flowguard"


def cell(scenario: str, policy: str, costs: list[float]) -> Cell:
    return Cell(
        scenario, policy, list(range(len(costs))), [Figures(each, each, each, each, 0.1, 0.5, 0.0) for each in costs]
    )


def table() -> Table:
    rng = np.random.default_rng(0)
    base = rng.uniform(50, 150, 10)
    return Table(
        RIVAL,
        [
            cell("calm", RIVAL, base.tolist()),
            cell("calm", "mine", (0.9 * base).tolist()),
            cell("wild", RIVAL, base.tolist()),
            cell("wild", "mine", (base * rng.uniform(1.02, 1.08, 10)).tolist()),
            cell("even", RIVAL, base.tolist()),
            cell("even", "mine", (base * rng.uniform(0.97, 1.03, 10)).tolist()),
        ],
    )


def test_pairing_takes_out_what_the_seeds_do() -> None:
    gain = table().gain("calm", "mine")
    # Costs differ threefold between seeds, gains not at all.
    assert gain.low == pytest.approx(0.1) and gain.high == pytest.approx(0.1)
    assert gain.above_0


def test_losses_are_named() -> None:
    assert table().losses("mine") == ["wild"]
    text = report.text(table())
    assert "**learning loses in 1 of 3**: wild -" in text
    assert "better by 5% or more, for sure: 1 of 3 (calm)" in text
    assert "learning loses in none" in report.text(
        Table(RIVAL, [each for each in table().cells if each.scenario == "calm"])
    )


def test_the_whole_is_resampled_within_scenarios() -> None:
    overall = table().overall("mine")
    assert -0.05 < overall.low <= overall.value <= overall.high < 0.1


def test_more_slo_attainment_is_a_gain() -> None:
    cells = [
        Cell("s", name, [0, 1], [Figures(1, 1, 1, 1, 0.1, share, 0.0)] * 2)
        for name, share in ((RIVAL, 0.5), ("mine", 0.6))
    ]
    assert Table(RIVAL, cells).gains("s", "mine", "slo_share") == pytest.approx([0.2, 0.2])


def shares(name: str, values: list[float]) -> Cell:
    return Cell("s", name, list(range(len(values))), [Figures(1, 1, 1, 1, 0.1, each, 0.0) for each in values])


def test_an_episode_in_which_nearly_everything_was_late_weighs_no_more_than_others() -> None:
    made = Table(RIVAL, [shares(RIVAL, [0.01, 0.8, 0.9]), shares("mine", [0.11, 0.8, 0.9])], "slo_share")
    # Ten times as many in one of three: 0.1 more of 1.71 in all.
    assert made.gain("s", "mine").value == pytest.approx(0.1 / 1.71)


def test_where_the_rival_meets_no_deadline_a_gain_is_reckoned_on_one_in_a_hundred() -> None:
    made = Table(RIVAL, [shares(RIVAL, [0.0, 0.0]), shares("mine", [0.0, 0.02])], "slo_share")
    assert made.gains("s", "mine") == pytest.approx([0.0, 2.0])


def test_noise_alone_gains_nothing() -> None:
    ours, theirs = np.random.default_rng(4).lognormal(0.0, 0.5, (2, 4000))
    cells = [cell("s", RIVAL, theirs.tolist()), cell("s", "mine", ours.tolist())]
    gain = Table(RIVAL, cells).gain("s", "mine")
    assert gain.low < 0 < gain.high
    assert np.mean(1 - ours / theirs) < -0.2, "as the mean of the episodes' own ratios would have it"


def test_pictures_are_written(tmp_path: Path) -> None:
    report.forest(tmp_path / "cost.png", table())
    report.curve(tmp_path / "curve.png", "run", [1, 2], [table().gain("calm", "mine")] * 2)
    assert (tmp_path / "cost.png").stat().st_size > 1000 and (tmp_path / "curve.png").stat().st_size > 1000


def test_policies_meet_the_same_episodes() -> None:
    made = compare(
        {"toy": lambda: Toy(requests=30, drained=True)},
        {RIVAL: heuristic, "again": heuristic, "fast": lambda _make: lambda batch, _masks: [0] * len(batch["pairs"])},
        [1, 2, 3],
        Slo(),
        lambda _line: None,
    )
    assert made.policies == ["again", "fast"] and made.scenarios == ["toy"]
    assert made.gains("toy", "again") == [0.0, 0.0, 0.0]
    assert made.gain("toy", "fast").value > 0.1


def result(number: int, e2e_s: float, finish: Finish = Finish.STOP) -> Result:
    lane = LaneId("lane-0")
    first_s = None if finish is Finish.ERROR else 1.0
    return Result(str(number), Decision(lane, lane, "r", ""), 10, 11, 0.0, e2e_s, finish, first_token_s=first_s)


def test_figures_count_what_failed_and_what_was_late() -> None:
    results = [result(0, 2.0), result(1, 4.0), result(2, 0.5, Finish.ERROR)]
    made = figures(Episode(0, -9.0, 3, results), Slo(ttft_s=1.5, tpot_s=0.2))
    assert made.cost == 9.0
    assert made.e2e_mean == 3.0 and made.ttft_mean == 1.0
    assert made.tpot_mean == pytest.approx((0.1 + 0.3) / 2)
    assert made.slo_share == pytest.approx(1 / 3) and made.failed_share == pytest.approx(1 / 3)
