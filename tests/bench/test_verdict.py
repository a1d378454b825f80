"""Verdicts on speculation: ratios within repeats, the best static, and the oracle over phases."""

import pytest

from streamserve.bench import verdict
from streamserve.bench.batch import Rate
from streamserve.bench.speculation import Measured, Phase

SUM, FREE = Phase("sum", 1, 8), Phase("alpaca", 16, 8)


def figure(kind: str, place: int, rule: str, repeat: int, per_s: int, *, gap_s: float = 0.0) -> Measured:
    return Measured(kind, place, (SUM, FREE)[place], rule, repeat, Rate(per_s, 1.0), gap_s)


def phases() -> list[Measured]:
    rates = {"off": (20, 100), "fixed:3": (40, 80), "specustream": (42, 99)}
    return [
        figure("phase", place, rule, repeat, each)
        for rule, pair in rates.items()
        for repeat in range(3)
        for place, each in enumerate(pair)
    ]


def test_ratios_are_of_the_same_repeat() -> None:
    slowed = {0: Rate(10, 1.0), 1: Rate(20, 1.0), 2: Rate(30, 1.0), 3: Rate(1, 1.0)}
    base = {0: Rate(5, 1.0), 1: Rate(10, 1.0), 2: Rate(15, 1.0)}
    compared = verdict.compare(slowed, base)
    assert compared is not None
    assert (compared.median, compared.low, compared.high, compared.n) == (2.0, 2.0, 2.0, 3)
    assert verdict.compare(slowed, {}) is None


def test_the_best_static_is_the_one_of_the_highest_median_and_never_adaptive() -> None:
    groups = verdict.grouped(phases(), "phase")
    assert verdict.best_static(groups[0, "sum x 1"]) == "fixed:3"
    assert verdict.best_static(groups[1, "alpaca x 16"]) == "off"


def test_the_whole_is_all_tokens_over_all_time() -> None:
    parts = [{0: Rate(10, 1.0), 1: Rate(8, 1.0)}, {0: Rate(20, 4.0)}]
    assert verdict.whole_of(parts) == {0: Rate(30, 5.0)}


def test_the_report_compares_with_the_best_single_static_and_with_the_oracle() -> None:
    text = verdict.text(phases(), {"steps": 200, "rule_s": 0.03, "step_s": 2.0})
    whole = next(line for line in text.splitlines() if line.startswith("| whole"))
    assert "| whole | off |" in whole or "| whole | fixed:3 |" in whole
    assert f"specustream {(42 + 99) / 120:.3g}" in whole
    assert f"oracle): {(42 + 99) / (40 + 100):.3g}" in text
    assert "1.50 % of the step time over 200 steps" in text


def test_cells_are_compared_with_none_and_with_the_best_static() -> None:
    rates = {"off": 100, "fixed:1": 125, "specustream": 120}
    text = verdict.text([figure("cell", 0, rule, i, rate) for rule, rate in rates.items() for i in range(2)], None)
    row = next(line for line in text.splitlines() if line.startswith("| sum x 1"))
    assert "| fixed:1 | 0.96 (" in row
    assert "1.25 (" in row and "1.2 (" in row


def test_a_run_over_a_pause_does_not_count() -> None:
    measured = [figure("cell", 0, rule, i, 100) for rule in ("off", "specustream") for i in range(3)]
    text = verdict.text([*measured, figure("cell", 0, "specustream", 3, 1, gap_s=9.0)], None)
    assert text.startswith("1 of 7 figures are left out")
    assert "| 1 (1 .. 1, n=3) |" in text


def test_nothing_measured_is_no_report_of_anything() -> None:
    with pytest.raises(ValueError, match="empty"):
        verdict.best_static({})
    assert "##" not in verdict.text([], None)
