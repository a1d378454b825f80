"""Recorded answers: kept as text, and as long as a simulated request needs them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.errors import ConfigError
from streamserve.lanes.sim.answers import Answers, packed, unpacked
from streamserve.lanes.sim.calibration import Calibration, checked, dump, load
from streamserve.lanes.sim.work import Found
from tests.calibrations import example

drafts = st.none() | st.tuples(st.integers(0, 3), st.integers(0, 32))
found_in = st.lists(drafts, max_size=40).map(lambda each: [None, *each])


@given(found_in)
def test_what_is_packed_is_unpacked_again(found: list[Found | None]) -> None:
    assert unpacked(packed(found)) == found


@given(found_in, st.integers(0, 10**9), st.integers(1, 200))
def test_an_answer_is_as_long_as_asked_and_begins_as_recorded(
    found: list[Found | None], seed: int, tokens: int
) -> None:
    made = Answers([packed(found)]).one(seed, tokens)
    assert len(made) == tokens
    assert made[: len(found)] == found[:tokens]
    half = (len(found) + 1) // 2
    assert set(made[half:]) <= set(found[half:] or [None])


def test_every_recorded_answer_is_given_about_as_often() -> None:
    texts = [packed([None, (0, number)]) for number in range(7)]
    answers = Answers(texts)
    given = [answers.one(seed, 2)[1] for seed in range(1_000_003, 1_000_703)]
    counts = [given.count((0, number)) for number in range(7)]
    assert min(counts) > 90 and max(counts) < 110
    assert given[:50] == [Answers(texts).one(seed, 2)[1] for seed in range(1_000_003, 1_000_053)]


@pytest.mark.parametrize("texts", [(), ("0",), ("0!",), ("30",), ("--0",)])
def test_answers_that_cannot_be_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"x: answers\.mix"):
        checked(recorded(mix=texts), "x")


def test_an_answer_of_a_workload_without_drafts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"answers\.poems"):
        checked(recorded(poems=("01",)), "x")


def test_answers_are_kept_in_the_file(tmp_path: pytest.TempPathFactory) -> None:
    path = f"{tmp_path}/made.yaml"
    with open(path, "w") as file:
        file.write(dump(recorded(chat=("--0113", "02"))))
    assert load(path).answers == {"chat": ("--0113", "02")}


def recorded(**answers: tuple[str, ...]) -> Calibration:
    return msgspec.structs.replace(example(), answers=answers)
