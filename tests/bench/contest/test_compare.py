"""What is told from noise: a sign test over repeats, beside what two servers of one system differ by."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.bench.contest import compare
from streamserve.bench.contest.compare import FEWEST, Verdict
from streamserve.bench.contest.settings import Point, Settings
from streamserve.bench.contest.summary import E2E_P99
from streamserve.bench.figures import spread
from tests.bench.contest.hall import kept, quick

SETTINGS = Settings(("streamserve", "vllm"))
POINT = Point("mix", "poisson", 0.8)


def verdict(ratios: list[float], again: float | None = None) -> Verdict:
    """StreamServe against vLLM with these ratios by repeat; its second server is `again` times as slow."""
    factors = {"vllm": [1.0] * len(ratios), "streamserve": [1 / ratio for ratio in ratios]}
    if again is not None:
        factors["streamserve again"] = [again / ratio for ratio in ratios]
    made = [kept(label, r, quick(each, r)) for label, every in factors.items() for r, each in enumerate(every)]
    systems = compare.grouped(made, SETTINGS)[POINT]
    found = compare.verdict(systems, "streamserve", E2E_P99, ["streamserve", "vllm"])
    assert found is not None
    return found


@pytest.mark.parametrize("ratios", [[1.1, 1.2, 1.05, 1.3, 1.1], [0.9, 0.8, 0.95, 0.7, 0.9, 0.6]])
def test_repeats_on_one_side_tell_a_difference(ratios: list[float]) -> None:
    found = verdict(ratios)
    assert found.beyond_noise and str(found).endswith(")")


@pytest.mark.parametrize(
    "ratios",
    [
        [2.0, 2.0, 2.0],
        [2.0, 2.0, 2.0, 2.0],
        [1.2, 1.3, 1.2, 1.3, 0.99],
        [1.2, 1.3, 1.2, 1.3, 1.2, 1.3, 1.2, 1.3, 1.0],
    ],
)
def test_few_repeats_and_such_as_disagree_are_marked(ratios: list[float]) -> None:
    found = verdict(ratios)
    assert not found.beyond_noise and str(found).endswith(" ~")


def test_what_two_servers_of_one_system_differ_by_is_no_difference() -> None:
    ratios = [1.02, 1.03, 1.02, 1.04, 1.03]
    assert verdict(ratios).beyond_noise and verdict(ratios, again=1.01).beyond_noise
    assert not verdict(ratios, again=1.05).beyond_noise
    assert not verdict(ratios, again=0.96).beyond_noise


def test_by_chance_alone_one_case_in_sixteen_is_beyond_noise() -> None:
    """The quartiles of three repeats, which decided before, were on one side in half of all cases."""
    cases = list(itertools.product((0.9, 1.1), repeat=FEWEST))
    assert sum(compare.beyond(each, 0.0) for each in cases) == len(cases) / 16


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.floats(0, 2))
def test_what_is_beyond_noise_is_so_for_both_systems(ratios: list[float], floor: float) -> None:
    apart = compare.beyond(ratios, 0.0)
    assert compare.beyond([1 / each for each in ratios], 0.0) == apart or any(1 / each == 1 for each in ratios)
    assert apart or not compare.beyond(ratios, floor)


def test_a_spread_that_leans_on_an_infinite_value_is_shown_without_it() -> None:
    inf = float("inf")
    assert compare.shown(spread([1.0])) == "1"
    assert compare.shown(spread([1.0, 2.0, inf])) == "2 (1.5 .. -)"
    assert compare.shown(spread([1.0, 2.0, inf, inf])) == "- (1.75 .. -)"
    assert compare.shown(spread([inf, inf])) == "-"
