"""The n-gram drafter equals a search through the whole sequence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.specustream.ngram import NgramDrafter


def searched(tokens: list[int], shortest: int, longest: int, depth: int) -> list[int]:
    for length in range(longest, shortest - 1, -1):
        end = tokens[-length:]
        for start in range(len(tokens) - length):
            if tokens[start : start + length] == end:
                return tokens[start + length : start + length + depth]
    return []


@given(
    st.lists(st.integers(0, 2), max_size=40),
    st.lists(st.integers(0, 2), max_size=10),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 8),
)
def test_equals_a_search(prompt: list[int], output: list[int], shortest: int, more: int, depth: int) -> None:
    drafter = NgramDrafter(shortest, shortest + more, prompt)
    for place, token in enumerate(output):
        assert drafter.propose(depth) == searched(prompt + output[:place], shortest, shortest + more, depth)
        drafter.extend([token])
    assert drafter.propose(depth) == searched(prompt + output, shortest, shortest + more, depth)


def test_takes_the_earliest_of_the_longest() -> None:
    assert NgramDrafter(1, 2, [1, 2, 7, 1, 2, 8, 2, 9, 1, 2]).propose(2) == [7, 1]


@pytest.mark.parametrize(("shortest", "longest"), [(0, 3), (4, 3)])
def test_refuses_lengths_that_cannot_be(shortest: int, longest: int) -> None:
    with pytest.raises(ValueError, match="1 <= shortest <= longest"):
        NgramDrafter(shortest, longest)
