"""Order: who is due before whom, and that nobody starves."""

import math
from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamserve.config import SchedulerConfig
from streamserve.scheduler.order import ASSUMED_TTFT_S, due_s
from streamserve.scheduler.work import Work
from streamserve.types import NO_SLO, Request, Slo
from tests.fakes import make_request

ORDERS = ["fcfs", "shortest_work", "slack"]

orders = st.sampled_from(ORDERS)
seconds = st.floats(0, 100)
wishes = st.none() | st.floats(0.001, 20)


WORK = Work(1.0, 2.0)


def due(order: Any, arrived_s: float, ttft_s: float | None = None, work: Work = WORK, default: Slo = NO_SLO) -> float:
    request = make_request(arrived_s=arrived_s, slo=Slo(ttft_s))
    return due_s(request, request.slo, default, SchedulerConfig(order=order, patience=4.0), lambda _: work)


def test_fcfs_is_due_by_arrival_and_predicts_nothing() -> None:
    def predict(request: Request) -> Work:
        raise AssertionError("nobody needs to know")

    for order in ("fcfs", "slack"):
        config = SchedulerConfig(order=order)
        assert due_s(make_request(arrived_s=3.0), NO_SLO, NO_SLO, config, predict) == 3.0 + ASSUMED_TTFT_S


def test_shortest_work_lets_others_pass_for_its_work_times_patience() -> None:
    long, short = Work(1.0, 2.0), Work(0.25, 0.25)
    assert due("shortest_work", 0.0, work=long) == due("shortest_work", 10.0, work=short)
    assert due("shortest_work", 0.0, work=long) > due("shortest_work", 9.9, work=short)


@pytest.mark.parametrize("order", ORDERS)
def test_a_named_ttft_goes_by_slack_in_every_order(order: str) -> None:
    assert due(order, 5.0, ttft_s=3.0) == 5.0 + 3.0 - 1.0
    assert due(order, 5.0, ttft_s=0.3) < due(order, 5.0) < due(order, 5.0, ttft_s=60.0)


@pytest.mark.parametrize(("order", "expected"), [("fcfs", 7.0), ("shortest_work", 19.0), ("slack", 6.0)])
def test_a_default_ttft_shifts_requests_that_name_none_and_is_a_slack_only_in_that_order(
    order: str, expected: float
) -> None:
    assert due(order, 0.0, default=Slo(7.0)) == expected


@given(orders, seconds, wishes, seconds, seconds, wishes)
def test_nobody_is_due_before_it_arrives_and_all_wait_a_bounded_time(
    order: str, arrived_s: float, ttft_s: float | None, prefill_s: float, decode_s: float, default: float | None
) -> None:
    instant = due(order, arrived_s, ttft_s, Work(prefill_s, decode_s), Slo(default))
    longest = max(ttft_s or 0, default or ASSUMED_TTFT_S) + 4.0 * (prefill_s + decode_s)
    assert arrived_s <= instant <= arrived_s + longest + 1e-9


@given(
    order=orders,
    victim=st.tuples(seconds, wishes, seconds, seconds),
    gaps=st.lists(st.floats(0.01, 0.2), min_size=1, max_size=300),
)
def test_no_stream_of_newcomers_starves_a_request(
    order: str, victim: tuple[float, float | None, float, float], gaps: list[float]
) -> None:
    """Newcomers that hurry most keep coming, and one request leaves at each arrival."""
    arrived_s, ttft_s, prefill_s, decode_s = victim
    line = [(due(order, arrived_s, ttft_s, Work(prefill_s, decode_s)), -1)]
    (end_s, _), now_s = line[0], arrived_s
    left_s = math.inf
    for n, gap in enumerate(gaps):
        now_s += gap
        heappush(line, (due(order, now_s, ttft_s=0.001, work=Work(0.0, 0.0)), n))
        if heappop(line)[1] == -1:
            left_s = now_s
            break
    assume(now_s > end_s or left_s < math.inf)
    assert left_s <= end_s + max(gaps)


@given(st.lists(seconds, min_size=2, max_size=20))
def test_equal_requests_leave_as_they_came(arrivals: list[float]) -> None:
    for order in ORDERS:
        instants = [due(order, at_s) for at_s in sorted(arrivals)]
        assert instants == sorted(instants)
