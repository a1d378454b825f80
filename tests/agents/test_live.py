"""What blocks of live runs say: paired by block, without those that a pause spoilt, and into the card."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agents import live
from streamserve.errors import ConfigError
from streamserve.policy import store
from streamserve.policy.card import Deadlines, Score
from tests.policy.policies import make_card, make_weights


@dataclass(frozen=True)
class Ended:
    e2e_s: float
    ttft_s: float | None = 0.5
    tpot_s: float | None = 0.05
    slo_met: bool = True
    finish: str = "length"


@dataclass(frozen=True)
class Run:
    requests: tuple[Ended, ...]
    policy: dict[str, Any] | None = None


@dataclass(frozen=True)
class Block:
    scenario: str
    number: int
    runs: dict[str, Run]
    steady: bool = True


def report(fallbacks: dict[str, int]) -> dict[str, Any]:
    return {"decisions": 8, "agreement": 0.75, "fallbacks": fallbacks}


def block(number: int, gain: float, scenario: str = "bursts, 0.8") -> Block:
    base = 10.0 * 2**number
    runs = {
        "flowguard": Run((Ended(base), Ended(2 * base))),
        "test": Run((Ended(base * (1 - gain)), Ended(2 * base * (1 - gain))), report({"outside": 1 + number})),
    }
    return Block(scenario, number, runs)


BLOCKS = [*(block(n, 0.1) for n in range(6)), *(block(n, -0.05 - 0.01 * n, "steady, 0.8") for n in range(6))]


def test_gains_are_taken_within_blocks() -> None:
    made = live.table(BLOCKS, "flowguard", "cost")
    # Blocks differ 32-fold, their gains not at all.
    gain = made.gain("bursts, 0.8", "test")
    assert (gain.low, gain.high) == pytest.approx((0.1, 0.1))
    assert made.policies == ["test"] and made.losses("test") == ["steady, 0.8"]


def test_a_block_with_a_pause_is_left_out_whole() -> None:
    spoilt = [replace(BLOCKS[0], steady=False), *BLOCKS[1:]]
    made = live.table(spoilt, "flowguard", "cost")
    assert made.cell("bursts, 0.8", "test").seeds == [1, 2, 3, 4, 5]
    text = live.text(made, spoilt)
    assert "1 of 12 blocks are left out" in text and "intervals are too narrow" in text


def test_policies_are_judged_by_what_all_of_them_are_for(tmp_path: Path) -> None:
    deadlines = Deadlines(3.0, 0.1)
    for name, meant in (("quick", None), ("timely", deadlines), ("punctual", deadlines)):
        store.save(tmp_path / name, make_card("route", name=name, deadlines=meant), make_weights("route"))
    quick, timely, punctual = (str(tmp_path / name) for name in ("quick", "timely", "punctual"))
    assert live.judged([timely, punctual]) == "slo_share"
    assert live.judged([quick]) == live.judged([quick, timely]) == "cost"
    assert "gain in SLO met" in live.text(live.table(BLOCKS, "flowguard", "slo_share"), BLOCKS)


def test_nothing_left_is_said() -> None:
    paused = [replace(each, steady=False) for each in BLOCKS]
    assert "Nothing is left to compare" in live.text(live.table(paused, "flowguard", "cost"), paused)


def test_the_cost_is_time_and_failures() -> None:
    made = live.figures([Ended(4.0), Ended(2.0, slo_met=False), Ended(1.0, None, None, False, "error")])
    assert made.cost == 4.0 + 2.0 + 1.0 + 30.0
    assert (made.e2e_mean, made.slo_share, made.failed_share) == (3.0, 1 / 3, 1 / 3)


def test_the_report_says_where_learning_loses_and_how_far_it_was_followed(tmp_path: Path) -> None:
    made = live.table(BLOCKS, "flowguard", "cost")
    live.keep(made, BLOCKS, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "**learning loses in 1 of 2**: steady, 0.8" in text and "too narrow" not in text
    assert "| bursts, 0.8 | test | 48 | 75% | outside 21 |" in text
    assert {each.name for each in tmp_path.iterdir()} > {"evaluation.json", "cost.png", "e2e_p99.png"}


def test_scores_on_real_lanes_stand_beside_those_of_the_simulation(tmp_path: Path) -> None:
    store.save(tmp_path, make_card("route"), make_weights("route"))
    live.score(str(tmp_path), live.table(BLOCKS[:6], "flowguard", "cost"))
    card = store.load(tmp_path).card
    assert card.scores == make_card("route").scores
    (score,) = card.live
    assert score.scenario == "bursts, 0.8" and score.gain == pytest.approx(0.1)
    assert isinstance(score, Score) and score.low <= score.gain <= score.high


def test_too_few_blocks_make_no_score(tmp_path: Path) -> None:
    store.save(tmp_path, make_card("route"), make_weights("route"))
    with pytest.raises(ConfigError, match="the fewest are 5"):
        live.score(str(tmp_path), live.table(BLOCKS[:11], "flowguard", "cost"))
    assert store.load(tmp_path).card.live == []
