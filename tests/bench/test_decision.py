"""Decision times as a table."""

import random

from streamserve.bench import decision


def test_a_row_per_router_and_a_column_per_number_of_lanes() -> None:
    text = decision.text(["flowguard", "random"], [1, 4], 50, 0.5)
    assert text.startswith("us per decision, median / p99 of 50; 50% of the lanes")
    header, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert header == ["lanes", "1", "4"]
    assert [row[0] for row in rows] == ["flowguard", "random", "(the same work)"]
    for row in rows:
        for cell in row[1:]:
            median_us, p99_us = map(float, cell.split(" / "))
            assert 0 <= median_us <= p99_us


def test_the_first_tenth_of_the_decisions_does_not_count() -> None:
    assert len(decision.decide("round_robin", 2, 50, 0.5)) == 45


def test_a_share_of_the_lanes_reports_between_two_decisions() -> None:
    moments = [signals for _, signals in decision.moments(200, 5, 0.25, random.Random(0))]
    for before, after in zip(moments, moments[1:], strict=False):
        reported = sum(before.lanes[lane] is not after.lanes[lane] for lane in before.lanes)
        assert 20 <= reported <= 80


def test_all_1024_lanes_by_default() -> None:
    given = decision.arguments().parse_args([])
    assert (min(given.lanes), max(given.lanes)) == (1, 1024)
    assert {"flowguard", "round_robin", "least_loaded"} <= set(given.routers)
