"""The benchmark whose rules take turns: what it makes of the rates."""

import pytest

from streamserve.bench import alternate


def test_a_rate_is_all_tokens_over_all_seconds() -> None:
    assert alternate.rates_of({"off": {"steps": 3, "tokens": 30, "seconds": 1.5}}) == {"off": 20.0}


def test_a_mix_of_equal_tokens_takes_the_time_of_all_cells() -> None:
    cells = [{"off": 10.0, "fixed:3": 20.0}, {"off": 30.0, "fixed:3": 20.0}]
    # Sixty tokens of each cell: 6 s and 2 s without drafts, 3 s and 3 s with.
    assert alternate.mix(cells) == pytest.approx({"off": 120 / 8, "fixed:3": 120 / 6})


def test_the_best_static_rule_is_one_for_all_repeats() -> None:
    repeats = [{"off": 10.0, "fixed:3": 30.0, "specustream": 1.0}] + [
        {"off": 11.0, "fixed:3": 9.0, "specustream": 99.0}
    ] * 2
    assert alternate.best(repeats, ["off", "fixed:3"]) == "off"


def test_the_report_shows_ratios_of_one_repeat() -> None:
    fast = {"off": 10.0, "fixed:3": 20.0, "specustream": 22.0}
    slow = {rule: rate / 2 for rule, rate in fast.items()}
    told = alternate.text({("sum", 1): [fast, slow, fast]}, list(fast))
    sum_row, mix_row = [line for line in told.splitlines() if line.startswith(("| sum", "| mix"))]
    assert sum_row.startswith("| sum x 1 | 10.0 | 2.00 | 2.20 | fixed:3 | 1.1 (1.1 .. 1.1, n=3)")
    assert mix_row.startswith("| mix | 10.0 | 2.00 | 2.20 | fixed:3 | 1.1")
