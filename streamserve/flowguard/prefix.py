"""PrefixIndex: which KV blocks each lane probably holds, told from the prompts that were sent there."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

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
        holders_of = self._holders.get
        for depth, block in enumerate(blocks):
            still = left & holders_of(block, 0)
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
        holders = self._holders
        renew = held.move_to_end
        # The first block last: a prefix outlives its continuations, as in vLLM.
        for block in reversed(blocks):
            if block in held:
                renew(block)
            else:
                held[block] = None
                holders[block] = holders.get(block, 0) | bit
        surplus = len(held) - min(capacity_blocks or DEFAULT_BLOCKS, MOST_BLOCKS)
        if surplus > 0:
            self._drop([held.popitem(last=False)[0] for _ in range(surplus)], bit)

    def forget(self, lane: LaneId) -> None:
        """The lane's cache is empty again."""
        if lane in self._held:
            self._drop(self._held.pop(lane), self._bits[lane])

    def _drop(self, blocks: Iterable[int], bit: int) -> None:
        """The lane with this bit, which held them, holds these blocks no more."""
        holders = self._holders
        for block in blocks:
            if left := holders[block] ^ bit:
                holders[block] = left
            else:
                del holders[block]
