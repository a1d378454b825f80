"""Drafts from history: equal to a search through the texts, bounded, and private where that is asked for."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.specustream.draft import NO_DRAFT, Draft
from streamserve.specustream.history import COUNTS, HistoryDrafter

Text = tuple[list[int], list[int]]
"""A prompt and its output."""

small = st.lists(st.integers(0, 2), max_size=24)
texts = st.lists(st.tuples(small, small), min_size=1, max_size=3)


def followers(text: list[int], piece: list[int], after: int = 0) -> Iterator[int]:
    """What followed the piece in the text, in order, from place `after` on."""
    for place in range(max(after, len(piece)), len(text)):
        if text[place - len(piece) : place] == piece:
            yield text[place]


def counted(following: list[int]) -> tuple[int, bool, int]:
    """What followed last, whether anything else ever did, and how often in a row this did."""
    times = 1
    while times < len(following) and following[-1 - times] == following[-1]:
        times += 1
    return following[-1], len(set(following)) > 1, min(times, COUNTS)


def kind(length: int, times: int, *, longest: int, shared: int = 0, doubt: int = 0) -> int:
    return ((longest * shared + length - 1) * 2 + doubt) * COUNTS + times - 1


def searched(text: list[int], others: list[Text], longest: int, depth: int) -> tuple[list[int], list[int]]:
    """The draft after `text` by search; others: what the lane wrote, in that order."""
    drafted: list[int] = []
    kinds: list[int] = []
    while len(drafted) < depth:
        context = text + drafted
        for length in range(min(longest, len(context)), 0, -1):
            piece = context[-length:]
            own = list(followers(text, piece))
            shared = [each for prompt, output in others for each in followers(prompt + output, piece, len(prompt))]
            if own or shared:
                token, doubt, times = counted(own or shared)
                drafted.append(token)
                kinds.append(kind(length, times, longest=longest, shared=not own, doubt=doubt))
                break
        else:
            break
    return drafted, kinds


def as_lists(draft: Draft) -> tuple[list[int], list[int]]:
    return list(draft.tokens), list(draft.kinds)


@given(texts, st.integers(1, 4), st.sampled_from([0, 1000]), st.integers(0, 6))
def test_equals_a_search(requests: list[Text], longest: int, shared_tokens: int, depth: int) -> None:
    drafter = HistoryDrafter(longest, shared_tokens)
    for number, (prompt, output) in enumerate(requests):
        for place in range(len(output) + 1):
            text = prompt + output[:place]
            others = [*requests[:number], (prompt, output[:place])] if shared_tokens else []
            draft = drafter.draft(f"{number}", text, len(prompt), depth)
            assert as_lists(draft) == searched(text, others, longest, depth)
            assert all(0 <= kind < drafter.kinds for kind in draft.kinds)
        drafter.forget(f"{number}")


@given(texts, st.lists(st.integers(0, 24)), st.sampled_from([0, 7, 1000]))
def test_drafts_do_not_depend_on_how_the_text_came(requests: list[Text], cuts: list[int], shared_tokens: int) -> None:
    whole, pieces = HistoryDrafter(3, shared_tokens), HistoryDrafter(3, shared_tokens)
    for number, (prompt, output) in enumerate(requests):
        text = prompt + output
        for cut in sorted(cuts):
            pieces.draft(f"{number}", text[:cut], len(prompt), cut % 3)
        assert pieces.draft(f"{number}", text, len(prompt), 5) == whole.draft(f"{number}", text, len(prompt), 5)


def test_kinds_say_source_length_doubt_and_count() -> None:
    drafter = HistoryDrafter(3, 100)
    assert as_lists(drafter.draft("a", [5, 6, 7, 5, 6], 3, 1)) == ([7], [kind(2, 1, longest=3)])
    for times, place in enumerate(range(8, 26, 3), 1):
        text = ([5, 6, 7] * 9)[:place]
        assert as_lists(drafter.draft("a", text, 3, 1)) == ([7], [kind(3, min(times, COUNTS), longest=3)])
    assert drafter.draft("b", [1, 5, 6], 3, 1).kinds == [kind(2, COUNTS, longest=3, shared=1)]
    assert drafter.draft("c", [5, 1, 5, 2, 5, 2, 5], 7, 1).kinds == [kind(3, 1, longest=3)]
    assert drafter.draft("d", [5, 1, 5, 2, 9, 5], 6, 1).kinds == [kind(1, 1, longest=3, doubt=1)]
    assert drafter.draft("e", [5, 1, 8, 5, 2, 9, 5, 2, 3, 5], 10, 1).kinds == [kind(1, 2, longest=3, doubt=1)]


def test_guesses_are_probabilities_that_fall_where_a_kind_says_less() -> None:
    for longest in (1, 6):
        drafter = HistoryDrafter(longest, 0)
        guesses = drafter.guesses()
        assert len(guesses) == drafter.kinds == 2 * longest * 2 * COUNTS
        assert all(0 < guess < 1 for guess in guesses)
        at = partial(kind, longest=longest)
        for length, times, shared, doubt in product(range(1, longest + 1), range(1, COUNTS + 1), (0, 1), (0, 1)):
            guess = guesses[at(length, times, shared=shared, doubt=doubt)]
            assert shared or guess > guesses[at(length, times, shared=1, doubt=doubt)]
            assert doubt or guess > guesses[at(length, times, shared=shared, doubt=1)]
            assert times == 1 or guess > guesses[at(length, times - 1, shared=shared, doubt=doubt)]
            assert length == 1 or guess > guesses[at(length - 1, times, shared=shared, doubt=doubt)]


def test_longer_pieces_of_others_come_before_shorter_ones_of_its_own() -> None:
    drafter = HistoryDrafter(3, 100)
    drafter.draft("a", [1, 2, 3, 4], 1, 0)
    assert drafter.draft("b", [3, 9, 1, 2, 3], 5, 1).tokens == [4]
    assert drafter.draft("c", [2, 3, 8, 2, 3], 5, 1).tokens == [8]


def test_depth_zero_drafts_nothing_and_still_learns() -> None:
    drafter = HistoryDrafter(3, 100)
    assert drafter.draft("a", [1, 2, 3], 0, 0) == NO_DRAFT
    assert drafter.draft("a", [1, 2, 3], 0, -1) == NO_DRAFT
    assert drafter.draft("b", [1, 2], 2, 1).tokens == [3]


@given(texts, small)
def test_without_shared_tokens_no_request_sees_another(requests: list[Text], text: list[int]) -> None:
    drafter = HistoryDrafter(3, 0)
    for number, (prompt, output) in enumerate(requests):
        drafter.draft(f"{number}", prompt + output, len(prompt), 4)
    assert drafter.draft("last", text, 0, 6) == HistoryDrafter(3, 0).draft("last", text, 0, 6)


@given(small, small, small)
def test_prompts_are_never_shared(prompt: list[int], output: list[int], text: list[int]) -> None:
    """Tokens from 10 on stand in the prompt alone: no other request is ever given one."""
    drafter = HistoryDrafter(4, 1000)
    secret = [token + 10 for token in prompt]
    drafter.draft("a", secret + output, len(secret), 0)
    for start in ([], secret):
        draft = drafter.draft(f"b{len(start)}", text + start[:1], 0, 6)
        assert all(token < 10 for token in draft.tokens if token not in text + start[:1])


def test_shared_history_is_bounded_by_two_generations() -> None:
    drafter = HistoryDrafter(2, 8)
    drafter.draft("a", [100, 101, 102, 103, 104], 1, 0)
    assert drafter.draft("b", [100], 1, 4).tokens == [101, 102, 103, 104]
    drafter.draft("c", [200, 201, 202, 203], 1, 0)
    assert drafter.draft("d", [100], 1, 1).tokens == [101]
    drafter.draft("e", [300, 301], 1, 0)
    assert drafter.draft("f", [100], 1, 1).tokens == []
    assert drafter.draft("f", [200], 1, 1).tokens == []
    assert drafter.draft("g", [200], 1, 1).tokens == [201]


def test_shared_history_takes_no_more_room_however_much_is_written() -> None:
    drafter = HistoryDrafter(3, 100)
    for number in range(20):
        drafter.draft(f"{number}", range(1000 * number, 1000 * number + 70), 0, 0)
        drafter.forget(f"{number}")
        assert len(drafter._shared) + len(drafter._older) <= 3 * 100
    assert not drafter._requests


def test_forget_drops_a_requests_own_text_only() -> None:
    drafter = HistoryDrafter(2, 100)
    drafter.draft("a", [1, 2, 3, 4], 2, 0)
    drafter.forget("a")
    drafter.forget("a")
    assert drafter.draft("a", [1], 1, 2).tokens == []
    assert drafter.draft("b", [2], 1, 2).tokens == [3, 4]


LARGE = [2**20 - 2, 2**20 - 1, 2**20, 2**24 - 2]


@given(st.lists(st.sampled_from([0, 1, *LARGE]), max_size=30), st.integers(0, 4))
def test_large_token_ids_do_not_collide(text: list[int], depth: int) -> None:
    drafter = HistoryDrafter(3, 0)
    assert as_lists(drafter.draft("a", text, 0, depth)) == searched(text, [], 3, depth)


def test_ids_beyond_the_room_in_a_key_are_drafted_whole() -> None:
    huge = 2**40
    assert HistoryDrafter(3, 0).draft("a", [1, huge, 2, 1], 4, 2).tokens == [huge, 2]


@pytest.mark.parametrize(("longest", "shared_tokens"), [(0, 10), (3, -1)])
def test_refuses_sizes_that_cannot_be(longest: int, shared_tokens: int) -> None:
    with pytest.raises(ValueError, match="longest >= 1 and shared_tokens >= 0"):
        HistoryDrafter(longest, shared_tokens)
