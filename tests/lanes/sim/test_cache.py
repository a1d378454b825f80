"""The KV cache of a simulated lane."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.lanes.sim.cache import Cache, chain

BLOCK = 4


def held(cache: Cache, prompt: list[int]) -> list[int] | None:
    """Take a prompt as a batch does, all of it computed; the hashes that are held by it."""
    hashes = chain(prompt, BLOCK)
    hits = cache.found(hashes, len(prompt))
    new = cache.of(len(prompt)) - len(hits)
    if not cache.take(hits, new):
        return None
    return [*hits, *(block for block in hashes[len(hits) :] if cache.publish(block))]


def test_the_last_token_is_never_taken_from_the_cache() -> None:
    cache = Cache(64, BLOCK)
    prompt = list(range(8))
    cache.give(held(cache, prompt) or [], 0)
    assert len(cache.found(chain(prompt, BLOCK), 8)) == 1
    assert len(cache.found(chain([*prompt, 9], BLOCK), 9)) == 2


def test_a_block_is_found_only_behind_the_same_tokens() -> None:
    cache = Cache(64, BLOCK)
    held(cache, list(range(12)))
    assert len(cache.found(chain([0, 1, 2, 3, 99, 5, 6, 7, 8, 9, 10, 11, 12], BLOCK), 13)) == 1


def test_the_least_recently_used_goes_first_and_a_prefix_outlives_its_continuation() -> None:
    cache = Cache(6 * BLOCK, BLOCK)
    old, new = list(range(12)), list(range(100, 112))
    for prompt in (old, new):
        cache.give(held(cache, prompt) or [], 0)
    assert cache.take((), 1)
    assert len(cache.found(chain([*old, 0], BLOCK), 13)) == 2
    assert len(cache.found(chain([*new, 0], BLOCK), 13)) == 3


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30), st.booleans()), max_size=30))
def test_blocks_are_conserved(visits: list[tuple[int, int, bool]]) -> None:
    cache = Cache(12 * BLOCK, BLOCK)
    inside: list[tuple[list[int], int]] = []
    for kind, tokens, leaves in visits:
        if leaves and inside:
            cache.give(*inside.pop(0))
        prompt = list(range(1000 * kind, 1000 * kind + tokens))
        hashes = held(cache, prompt)
        if hashes is not None:
            inside.append((hashes, cache.of(tokens) - len(hashes)))
        assert 0 <= cache.used <= cache.blocks
    for each in inside:
        cache.give(*each)
    assert cache.used == 0
    assert cache.take((), cache.blocks)
    assert not cache.take((), 1)
