"""PrefixIndex: which KV blocks each lane probably holds, told from the prompts that were sent there."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence

from streamserve.types import LaneId

Chain = tuple[int, ...]

DEFAULT_BLOCKS = 8192
"""Blocks remembered of a lane that does not say how many it has."""
MOST_BLOCKS = 32_768
"""Blocks remembered of any one lane, so that the index of 64 large lanes stays below half a gigabyte."""


def chain(token_ids: Sequence[int], block_tokens: int) -> Chain:
    """One hash per full block, each over its tokens and all before them, as vLLM identifies cached blocks.

    Python's hash of integers is the same in every process; a collision costs one wrong guess.
    """
    above = 0
    # As many times the same iterator: zip draws block after block, and leaves out what does not fill one.
    blocks = zip(*[iter(token_ids)] * block_tokens, strict=False)
    return tuple([above := hash((above, block)) for block in blocks])


def cachable_blocks(prompt_tokens: int, block_tokens: int) -> int:
    """The most blocks of a prompt that vLLM takes from its cache: full ones, and never the prompt's last token."""
    return max(0, prompt_tokens - 1) // block_tokens


class PrefixIndex:
    """Per lane, the blocks of the prompts sent there, least recently used first out, as many as its KV cache holds."""

    def __init__(self) -> None:
        self._held: dict[LaneId, OrderedDict[int, None]] = {}
        """Whoever holds a block holds all before it, since those are renewed after it."""

    def __len__(self) -> int:
        """Blocks remembered, over all lanes."""
        return sum(map(len, self._held.values()))

    def matched(self, blocks: Chain) -> dict[LaneId, int]:
        """How many of these blocks, from the first on, each lane holds; lanes that hold none are left out."""
        if not blocks:
            return {}
        count, from_the_end = len(blocks), blocks[::-1]
        depths: dict[LaneId, int] = {}
        depth = 0
        for lane, held in self._held.items():
            if blocks[0] not in held:
                continue
            # Most lanes that hold a prompt hold as much of it as the one before: the beginning that requests share.
            if depth == 0 or blocks[depth - 1] not in held or (depth < count and blocks[depth] in held):
                # From the end on, a lane holds none and then all: where that changes takes a few looks to find.
                depth = count - bisect_left(from_the_end, True, key=held.__contains__)
            depths[lane] = depth
        return depths

    def sent(self, blocks: Chain, lane: LaneId, capacity_blocks: int = 0) -> None:
        """A prompt with these blocks goes to the lane. capacity_blocks: of its KV cache, 0 = not known."""
        held = self._held.get(lane)
        if held is None:
            held = self._held[lane] = OrderedDict()
        renew = held.move_to_end
        # The first block last: a prefix outlives its continuations, as in vLLM.
        for block in reversed(blocks):
            if block in held:
                renew(block)
            else:
                held[block] = None
        drop_oldest = held.popitem
        for _ in range(len(held) - min(capacity_blocks or DEFAULT_BLOCKS, MOST_BLOCKS)):
            drop_oldest(last=False)

    def forget(self, lane: LaneId) -> None:
        """The lane's cache is empty again."""
        self._held.pop(lane, None)
