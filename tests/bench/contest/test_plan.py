"""What is sent: the same to all, in shares, and no prompt twice to one server while there are others."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.bench.contest import synthetic
from streamserve.bench.contest.plan import Dealer, fingerprint, order
from streamserve.bench.contest.settings import Settings
from streamserve.errors import ConfigError
from tests.bench.contest.hall import prompt_set

SETS = {"short": prompt_set("short", 40, 16), "long": prompt_set("long", 40, 33)}


def settings(**changes: object) -> Settings:
    return Settings(("a", "b"), **{"requests": 10, "loads": (0.5, 0.8), **changes})  # type: ignore[arg-type]


def test_a_repeat_is_the_same_whenever_it_is_dealt_and_other_than_the_next() -> None:
    dealer = Dealer(SETS, settings())
    assert dealer.repeat(1) == Dealer(SETS, settings(repeats=9)).repeat(1)
    assert dealer.repeat(1) != dealer.repeat(2)
    assert dealer.repeat(1) != Dealer(SETS, settings(seed=1)).repeat(1)


def test_a_mix_has_the_same_share_of_every_set() -> None:
    for hand in Dealer(SETS, settings(requests=11)).repeat(0).values():
        assert Counter(ask.prompt.split()[0] for ask in hand.asks) == {"short": 6, "long": 5}


def test_no_prompt_comes_twice_in_a_repeat_while_there_are_others() -> None:
    hands = Dealer(SETS, settings(requests=40)).repeat(3)
    sent = [ask.prompt for hand in hands.values() for ask in hand.asks]
    assert len(sent) == len(set(sent)) == 80
    assert {hand.seen for hand in hands.values()} == {0}


def test_a_prompt_that_comes_again_begins_with_another_line() -> None:
    first, second = Dealer(SETS, settings(requests=60)).repeat(0).values()
    assert (first.seen, second.seen) == (0, 40)
    sent = [ask.prompt for ask in (*first.asks, *second.asks)]
    assert len(set(sent)) == 120
    again = [prompt for prompt in sent if prompt.startswith("(2)\n")]
    assert len(again) == 40
    assert {prompt.removeprefix("(2)\n") for prompt in again} <= set(sent)


def test_where_systems_stay_up_prompts_of_earlier_repeats_count_as_seen() -> None:
    kept = Dealer(SETS, settings(requests=40, keep=True))
    assert [sum(hand.seen for hand in kept.repeat(repeat).values()) for repeat in (0, 1)] == [0, 80]


def test_a_server_of_its_own_run_has_seen_nothing() -> None:
    for apart, seen in ((True, [0, 0, 0]), (False, [0, 0, 40])):
        hands = Dealer(SETS, settings(requests=40, loads=(0.3, 0.5, 0.8), apart=apart)).repeat(0)
        assert [hand.seen for hand in hands.values()] == seen


def test_output_lengths_scale_and_are_at_least_two() -> None:
    for scale, expected in ((1.0, {16, 33}), (0.5, {8, 16}), (0.001, {2})):
        hands = Dealer(SETS, settings(length_scale=scale)).repeat(0)
        assert {ask.output_tokens for hand in hands.values() for ask in hand.asks} == expected


def test_a_workload_that_is_no_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="there is no gsm8k, these prompts have short, long, mix"):
        Dealer(SETS, settings(workloads=("mix", "gsm8k")))


def test_capacity_is_measured_with_the_workload_s_prompts() -> None:
    dealer = Dealer(SETS, settings(workloads=("short", "mix")))
    assert {ask.prompt.split()[0] for ask in dealer.capacity("short", 32).asks} == {"short"}
    assert len(dealer.capacity("mix", 32).asks) == 32


@given(st.lists(st.text(), min_size=1, max_size=6, unique=True), st.integers(0, 20))
def test_every_system_runs_in_every_place_equally_often(labels: list[str], place: int) -> None:
    rounds = [order(labels, repeat, place) for repeat in range(len(labels))]
    assert all(sorted(each) == sorted(labels) for each in rounds)
    assert all(sorted(at) == sorted(labels) for at in zip(*rounds, strict=True))


def test_made_up_sets_are_short_questions_and_long_texts() -> None:
    sets = synthetic.sets(0)
    assert sets == synthetic.sets(0) != synthetic.sets(1)
    letters = {name: [len(each.messages[0][1]) for each in prompts] for name, prompts in sets.items()}
    assert max(letters["questions"]) < 200
    assert min(letters["texts"]) > 1000
    assert all(len({each.id for each in prompts}) == synthetic.SIZE for prompts in sets.values())


def test_a_fingerprint_tells_prompts_apart() -> None:
    assert fingerprint(SETS["short"]) == fingerprint(prompt_set("short", 40, 16))
    assert fingerprint(SETS["short"]) != fingerprint(prompt_set("short", 40, 17))
