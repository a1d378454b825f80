"""Rules: the optimum is the optimum, prices order it, and depths are prefixes."""

from itertools import accumulate, product
from operator import mul

from hypothesis import given
from hypothesis import strategies as st

from streamserve.signals import StepCost
from streamserve.specustream.rule import fixed_depths, goodput_depths, static_depth, target_depths

COST = StepCost(((1, 0.033), (4, 0.040), (8, 0.050), (16, 0.075), (32, 0.125)), 0.001)


def survivals(rates: list[list[float]]) -> dict[str, list[float]]:
    drafts = {}
    for request, conditional in enumerate(rates):
        survival, row = 1.0, []
        for rate in conditional:
            survival *= rate
            row.append(survival)
        drafts[f"r{request}"] = row
    return drafts


rates = st.lists(st.lists(st.floats(0.01, 1.0), max_size=3), max_size=4).map(survivals)
# Not less likely: the product of eight such would be lost in the rounding of a sum of tokens.
many = st.lists(st.lists(st.floats(0.05, 1.0), max_size=8), max_size=16).map(survivals)
rises = st.lists(st.tuples(st.integers(1, 12), st.floats(0.0, 0.05)), min_size=1, max_size=6)


@st.composite
def costs(draw: st.DrawFn) -> StepCost:
    tokens, seconds, knots = 0, draw(st.floats(0.001, 0.05)), []
    for more, slower in draw(rises):
        tokens, seconds = tokens + more, seconds + slower
        knots.append((tokens, seconds))
    return StepCost(tuple(knots), draw(st.floats(0, 0.01)))


def goodput(
    drafts: dict[str, list[float]], depths: dict[str, int], base: int, prefill_tokens: int, cost: StepCost
) -> float:
    tokens = base + sum(sum(row[: depths[request]]) for request, row in drafts.items())
    return tokens / cost.step_s(prefill_tokens, base + sum(depths.values()))


@given(rates, costs(), st.integers(0, 4), st.sampled_from([0, 7, 300]))
def test_no_choice_of_depths_has_better_goodput(
    drafts: dict[str, list[float]], cost: StepCost, others: int, prefill_tokens: int
) -> None:
    base = max(1, len(drafts) + others)
    chosen = goodput_depths(drafts, base, prefill_tokens, cost)
    best = max(
        goodput(drafts, dict(zip(drafts, depths, strict=True)), base, prefill_tokens, cost)
        for depths in product(*(range(len(row) + 1) for row in drafts.values()))
    )
    assert goodput(drafts, chosen, base, prefill_tokens, cost) >= best * (1 - 1e-9)


@given(many, costs(), st.lists(st.floats(0, 20), min_size=2, max_size=5))
def test_a_higher_price_is_never_deeper(drafts: dict[str, list[float]], cost: StepCost, prices: list[float]) -> None:
    chosen = [goodput_depths(drafts, len(drafts) + 1, 0, cost, price) for price in sorted(prices)]
    for cheap, dear in zip(chosen, chosen[1:], strict=False):
        assert sum(dear.values()) <= sum(cheap.values())


@given(many)
def test_price_zero_admits_all_and_a_huge_one_none(drafts: dict[str, list[float]]) -> None:
    assert goodput_depths(drafts, 17, 0, COST, 0.0) == {request: len(row) for request, row in drafts.items()}
    assert not any(goodput_depths(drafts, 17, 0, COST, 1e9).values())


@given(many, costs(), st.floats(0, 5))
def test_depths_are_prefixes_of_the_likeliest(drafts: dict[str, list[float]], cost: StepCost, price: float) -> None:
    depths = goodput_depths(drafts, len(drafts) + 1, 0, cost, price)
    assert depths.keys() == drafts.keys()
    assert all(0 <= depths[request] <= len(row) for request, row in drafts.items())
    admitted = [row[depth] for request, row in drafts.items() for depth in range(depths[request])]
    refused = [s for request, row in drafts.items() for s in row[depths[request] :]]
    assert not admitted or not refused or min(admitted) >= max(refused)


def test_the_scan_passes_a_stair_that_a_greedy_stop_would_not() -> None:
    stairs = StepCost(((4, 0.010), (5, 0.014), (8, 0.0141), (9, 0.1)))
    drafts = {f"r{request}": [0.9] for request in range(4)}
    assert sum(goodput_depths(drafts, 4, 0, stairs).values()) == 4


def test_a_long_prefill_in_the_step_makes_drafts_cheap() -> None:
    drafts = {f"r{request}": [0.3, 0.1] for request in range(16)}
    assert sum(goodput_depths(drafts, 16, 0, COST).values()) == 0
    assert sum(goodput_depths(drafts, 16, 1024, COST).values()) == 32


def test_target_is_the_least_probability_of_acceptance() -> None:
    assert target_depths({"a": [0.9, 0.6, 0.5, 0.2], "b": [0.4], "c": []}, 0.5) == {"a": 3, "b": 0, "c": 0}


def test_fixed_goes_as_deep_as_the_draft_is_long() -> None:
    assert fixed_depths({"a": range(8), "b": range(2), "c": ()}, 3) == {"a": 3, "b": 2, "c": 0}


def test_static_depth_falls_with_the_batch() -> None:
    assert [static_depth(decoding) for decoding in (1, 2, 3, 8, 9)] == [4, 4, 2, 2, 0]


def test_among_equals_the_last_ids_are_admitted_first() -> None:
    stairs = StepCost(((3, 0.01), (4, 0.01), (5, 0.5), (64, 5.0)), 0.0)
    drafts = {"b": [0.5, 0.25], "c": [0.5], "a": [0.5, 0.5]}
    for price, admitted in ((1.0, {"b": 0, "c": 1, "a": 0}), (0.0, {"b": 2, "c": 1, "a": 2})):
        assert goodput_depths(drafts, 3, 0, stairs, price) == admitted
    assert goodput_depths({"b": [0.5], "a": [0.4, 0.3]}, 3, 0, stairs) == {"b": 1, "a": 0}


@given(
    drafts=st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from([1.0, 0.5, 0.25]), max_size=6)),
    base=st.integers(5, 20),
    price=st.sampled_from([0.3, 1.0, 2.0]),
)
def test_the_likeliest_draft_tokens_are_admitted(drafts: dict[str, list[float]], base: int, price: float) -> None:
    drafts = {request: [float(each) for each in accumulate(rates, mul)] for request, rates in drafts.items()}
    depths = goodput_depths(drafts, base, 0, COST, price)
    ranked = sorted(((each, request) for request, row in drafts.items() for each in row), reverse=True)
    best = [request for _, request in ranked[: sum(depths.values())]]
    assert depths == {request: best.count(request) for request in drafts}
