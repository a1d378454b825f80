"""The KV cache of a simulated lane: blocks in use, and prompts that are still there when nobody uses them."""

from collections import OrderedDict
from collections.abc import Sequence


def chain(token_ids: Sequence[int], block_tokens: int) -> tuple[int, ...]:
    """One hash per full block, each over its tokens and all before them, as vLLM identifies cached blocks."""
    ids = tuple(token_ids)
    above = 0
    hashes = []
    for end in range(block_tokens, len(ids) + 1, block_tokens):
        above = hash((above, ids[end - block_tokens : end]))
        hashes.append(above)
    return tuple(hashes)


class Cache:
    """Blocks of `block_tokens` tokens, reference counted, found by hash.

    As in vLLM 0.32 a freed block without a hash is taken first, then freed blocks with one, the least recently used
    first; a prefix outlives its continuations.
    """

    def __init__(self, kv_tokens: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.blocks = max(1, kv_tokens // block_tokens)
        self.used = 0
        """Blocks that some request holds."""
        self._holders: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Cached blocks that nobody holds, least recently used first."""

    @property
    def free(self) -> int:
        """Blocks that a request could get."""
        return self.blocks - self.used

    @property
    def share(self) -> float:
        """Share of the blocks in use, 0..1."""
        return self.used / self.blocks

    def of(self, tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-tokens // self.block_tokens)

    def found(self, hashes: Sequence[int], tokens: int) -> Sequence[int]:
        """The leading blocks of a sequence of so many tokens that are here; its last token is always computed."""
        most = min(len(hashes), (tokens - 1) // self.block_tokens)
        count = 0
        while count < most and (hashes[count] in self._holders or hashes[count] in self._idle):
            count += 1
        return hashes[:count]

    def take(self, hits: Sequence[int], new: int) -> bool:
        """Hold these cached blocks and so many new ones; False and nothing held where they do not fit."""
        idle = sum(block in self._idle for block in hits)
        if idle + new > self.free:
            return False
        for block in hits:
            self._idle.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1
        self.used += idle + new
        while self.used + len(self._idle) > self.blocks:
            self._idle.popitem(last=False)
        return True

    def publish(self, block: int) -> bool:
        """A held block without hash is full and can be found from now on; False where the cache has one like it."""
        if block in self._holders or block in self._idle:
            return False
        self._holders[block] = 1
        return True

    def give(self, hashes: Sequence[int], blank: int) -> None:
        """Hold these blocks and so many without a hash no more."""
        self.used -= blank
        for block in reversed(hashes):
            left = self._holders[block] - 1
            if left:
                self._holders[block] = left
            else:
                del self._holders[block]
                self._idle[block] = None
                self.used -= 1
