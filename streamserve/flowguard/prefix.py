"""PrefixIndex: which KV blocks each lane probably holds, told from the prompts that were sent there."""

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
    ids = tuple(token_ids)
    above = 0
    hashes = []
    for end in range(block_tokens, len(ids) + 1, block_tokens):
        above = hash((above, ids[end - block_tokens : end]))
        hashes.append(above)
    return tuple(hashes)


def cachable_blocks(prompt_tokens: int, block_tokens: int) -> int:
    """The most blocks of a prompt that vLLM takes from its cache: full ones, and never the prompt's last token."""
    return max(0, prompt_tokens - 1) // block_tokens


class PrefixIndex:
    """Per lane, the blocks of the prompts sent there, least recently used first out, as many as its KV cache holds."""

    def __init__(self) -> None:
        self._held: dict[LaneId, OrderedDict[int, None]] = {}
        self._bits: dict[LaneId, int] = {}
        self._holders: dict[int, int] = {}
        """Block hash -> the bits of the lanes that hold it."""

    def __len__(self) -> int:
        """Blocks remembered, over all lanes."""
        return sum(len(held) for held in self._held.values())

    def matched(self, blocks: Chain) -> dict[LaneId, int]:
        """How many of these blocks, from the first on, each lane holds; lanes that hold none are left out."""
        if not blocks or not (left := self._holders.get(blocks[0], 0)):
            return {}
        dropped: list[tuple[int, int]] = []
        depth = 0
        for depth, block in enumerate(blocks):
            still = left & self._holders.get(block, 0)
            if still != left:
                dropped.append((left & ~still, depth))
                left = still
                if not left:
                    break
        if left:
            dropped.append((left, depth + 1))
        return {lane: depth for lane, bit in self._bits.items() for bits, depth in dropped if bit & bits}

    def matched_tokens(self, blocks: Chain, lane: LaneId, block_tokens: int) -> int:
        """Tokens of this chain, from the first on, that the lane holds."""
        return self.matched(blocks).get(lane, 0) * block_tokens

    def sent(self, blocks: Chain, lane: LaneId, capacity_blocks: int = 0) -> None:
        """A prompt with these blocks goes to the lane. capacity_blocks: of its KV cache, 0 = not known."""
        held = self._held.setdefault(lane, OrderedDict())
        bit = self._bits.setdefault(lane, 1 << len(self._bits))
        # The first block last: a prefix outlives its continuations, as in vLLM.
        holders = self._holders
        for block in reversed(blocks):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                holders[block] = holders.get(block, 0) | bit
        most = min(capacity_blocks or DEFAULT_BLOCKS, MOST_BLOCKS)
        for _ in range(len(held) - most):
            self._drop(held.popitem(last=False)[0], bit)

    def forget(self, lane: LaneId) -> None:
        """The lane's cache is empty again."""
        for block in self._held.pop(lane, ()):
            self._drop(block, self._bits[lane])

    def _drop(self, block: int, bit: int) -> None:
        if left := self._holders[block] & ~bit:
            self._holders[block] = left
        else:
            del self._holders[block]
