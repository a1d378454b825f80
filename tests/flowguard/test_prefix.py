"""PrefixIndex: it knows what was sent, forgets what no longer fits, and stays small."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from streamserve.flowguard.prefix import DEFAULT_BLOCKS, MOST_BLOCKS, PrefixIndex, cachable_blocks, chain
from streamserve.types import LaneId
from tests.flowguard.snapshots import LANES, A, B

prompts = st.lists(st.integers(0, 1), max_size=24).map(tuple)


def shared_blocks(one: tuple[int, ...], other: tuple[int, ...], size: int) -> int:
    same = 0
    while (same + 1) * size <= min(len(one), len(other)) and one[: (same + 1) * size] == other[: (same + 1) * size]:
        same += 1
    return same


@given(sent=st.lists(st.tuples(st.sampled_from(LANES), prompts), max_size=12), prompt=prompts, size=st.integers(1, 5))
def test_a_lane_holds_the_longest_prefix_that_was_sent_there(
    sent: list[tuple[LaneId, tuple[int, ...]]], prompt: tuple[int, ...], size: int
) -> None:
    index = PrefixIndex()
    for lane, ids in sent:
        index.sent(chain(ids, size), lane)
    for lane in LANES:
        expected = max((shared_blocks(ids, prompt, size) for to, ids in sent if to == lane), default=0)
        assert index.matched(chain(prompt, size)).get(lane, 0) == expected


@given(sent=st.lists(st.tuples(st.sampled_from(LANES), prompts), max_size=30), capacity=st.integers(1, 10))
def test_no_lane_remembers_more_than_it_holds(sent: list[tuple[LaneId, tuple[int, ...]]], capacity: int) -> None:
    index = PrefixIndex()
    for lane, ids in sent:
        index.sent(chain(ids, 2), lane, capacity)
        assert len(index) <= capacity * len(LANES)
    for lane in LANES:
        index.forget(lane)
    assert len(index) == 0


def test_the_least_recently_sent_goes_first_and_from_its_end() -> None:
    index = PrefixIndex()
    old, new = chain(range(8), 2), chain(range(100, 104), 2)
    index.sent(old, A, 4)
    index.sent(new, A, 4)
    assert index.matched(new) == {A: 2}
    assert index.matched(old) == {A: 2}


@given(sent=st.lists(st.tuples(prompts, st.integers(1, 10)), max_size=30), prompt=prompts)
def test_what_is_left_of_a_prompt_is_its_beginning(
    sent: list[tuple[tuple[int, ...], int]], prompt: tuple[int, ...]
) -> None:
    index, held = PrefixIndex(), list[int]()
    for ids, capacity in sent:
        blocks = chain(ids, 2)
        index.sent(blocks, A, capacity)
        held = [*(block for block in held if block not in blocks), *reversed(blocks)][-capacity:]
    looked_for = chain(prompt, 2)
    here = [block in held for block in looked_for]
    assert here == sorted(here, reverse=True)
    assert index.matched(looked_for).get(A, 0) == sum(here)


def test_a_forgotten_lane_takes_nothing_from_the_others() -> None:
    index = PrefixIndex()
    blocks = chain(range(8), 2)
    index.sent(blocks, A)
    index.sent(blocks, B)
    index.forget(A)
    assert index.matched(blocks) == {B: 4}


def test_memory_is_bounded_whatever_is_sent() -> None:
    index = PrefixIndex()
    for start in range(0, 3 * MOST_BLOCKS, 1024):
        index.sent(tuple(range(start, start + 1024)), A, 10**9)
        index.sent(tuple(range(start, start + 1024)), B)
    assert len(index) == MOST_BLOCKS + DEFAULT_BLOCKS
    assert sum(map(sys.getsizeof, index._held.values())) < 8 * 2**20


@given(ids=prompts, size=st.integers(1, 5))
def test_a_blocks_hash_is_of_its_tokens_and_all_before_them(ids: tuple[int, ...], size: int) -> None:
    above, hashes = 0, []
    for end in range(size, len(ids) + 1, size):
        above = hash((above, ids[end - size : end]))
        hashes.append(above)
    assert chain(ids, size) == tuple(hashes)


def test_only_full_blocks_count_and_never_the_last_token() -> None:
    assert len(chain(range(33), 16)) == 2
    assert [cachable_blocks(tokens, 16) for tokens in (0, 1, 16, 17, 32, 33)] == [0, 0, 0, 1, 1, 2]
