"""Batch: who runs and who waits on a lane, as vLLM V1's scheduler has it."""

from collections import deque
from collections.abc import Callable

from streamserve.lanes.sim.cache import Cache
from streamserve.lanes.sim.sequence import Sequence

Chunk = tuple[Sequence, int]
"""A request and how many tokens of its prompt a step computes."""


class Batch:
    """Running requests decode first; then prompts are computed in chunks, first come first served.

    A running request that gets no block for its next token makes the youngest running one give up its own: that one is
    computed anew later, before all that wait.
    max_running: requests in a batch.
    fetch: begins to fetch a request's KV, whose blocks are allocated; `fetched` ends it.
    """

    def __init__(self, cache: Cache, max_running: int, fetch: Callable[[Sequence], None]) -> None:
        self.cache = cache
        self.running: list[Sequence] = []
        self.preempted = False
        """Whether somebody was preempted for the step that was made up last."""
        self.preemptions = 0
        self.queried_tokens = 0
        self.found_tokens = 0
        self._max_running = max_running
        self._fetch = fetch
        self._waiting: deque[Sequence] = deque()
        self._fetching: dict[Sequence, None] = {}
        self._fetched: deque[Sequence] = deque()
        self._waiting_tokens = 0
        self._partial_tokens = 0

    @property
    def waiting(self) -> int:
        """Requests that wait, for a place or for their KV."""
        return len(self._waiting) + len(self._fetching) + len(self._fetched)

    @property
    def blocked(self) -> bool:
        """Whether somebody waits whom the present batch leaves no place."""
        return bool(self._waiting or self._fetched)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that are accepted and not computed."""
        return self._waiting_tokens + self._partial_tokens

    @property
    def next_tokens(self) -> int:
        """Those of them that the next step may compute: with a full batch, only the prompts that are begun."""
        return self.queued_tokens if len(self.running) < self._max_running else self._partial_tokens

    @property
    def found_share(self) -> float:
        """Share of the tokens of admitted requests that were found in the cache."""
        return self.found_tokens / self.queried_tokens if self.queried_tokens else 0.0

    def add(self, sequence: Sequence) -> None:
        """A new request, or one whose KV did not come."""
        self._waiting.append(sequence)
        self._waiting_tokens += _own_tokens(sequence)

    def fetched(self, sequence: Sequence) -> None:
        """Its KV has come."""
        del self._fetching[sequence]
        sequence.computed = max(sequence.computed, min(sequence.fetched_tokens, sequence.to_compute - 1))
        sequence.joined = True
        self._publish(sequence, sequence.computed)
        self._fetched.append(sequence)

    def not_fetched(self, sequence: Sequence) -> None:
        """Its KV does not come: it is next to be computed here."""
        del self._fetching[sequence]
        self._again(sequence)

    def decoding(self) -> list[Sequence]:
        """The running requests that decode in the step that begins, each with a block for its next token."""
        self.preempted = False
        while self._fetched and len(self.running) < self._max_running:
            self.running.append(self._fetched.popleft())
        decoding = [sequence for sequence in self.running if sequence.to_compute - sequence.computed == 1]
        block_tokens = self.cache.block_tokens
        for sequence in decoding:
            if sequence.context <= block_tokens * (len(sequence.held) + sequence.blank):
                continue
            if not self.preempted or sequence in self.running:
                self._grow(sequence, sequence.context)
        return [sequence for sequence in decoding if sequence in self.running] if self.preempted else decoding

    def prompts(self, budget: int) -> list[Chunk]:
        """The prompt chunks of the step, of so many tokens together at most."""
        partial = [each for each in self.running if each.to_compute - each.computed != 1]
        if not partial and not self._waiting:
            self._partial_tokens = 0
            return []
        chunks: list[Chunk] = []
        for sequence in partial:
            tokens = min(budget, sequence.to_compute - sequence.computed)
            if tokens > 0 and sequence in self.running and self._grow(sequence, sequence.computed + tokens):
                self._schedule(sequence, tokens, chunks)
                budget -= tokens
        while self._waiting and budget > 0 and len(self.running) < self._max_running and not self.preempted:
            sequence = self._waiting[0]
            first = self._place(sequence, budget)
            if first is None:
                break
            self._waiting_tokens -= _own_tokens(sequence)
            self._waiting.popleft()
            if sequence.kv is not None:
                self._fetching[sequence] = None
                self._fetch(sequence)
                continue
            self.running.append(sequence)
            self._schedule(sequence, first, chunks)
            budget -= first
        if self.preempted:
            # It may have hit somebody who had its chunk already.
            chunks = [chunk for chunk in chunks if chunk[0] in self.running]
        left = sum(each.to_compute - each.computed for each in self.running if not each.decoding)
        self._partial_tokens = left - sum(tokens for _, tokens in chunks)
        return chunks

    def drop(self, sequence: Sequence) -> None:
        """It is over, wherever it is, and holds nothing any more."""
        if sequence in self._fetching:
            del self._fetching[sequence]
        elif sequence in self._fetched:
            self._fetched.remove(sequence)
        elif sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
            self._waiting_tokens -= _own_tokens(sequence)
        self.free(sequence)

    def retire(self, sequence: Sequence) -> None:
        """It runs no more and still holds its blocks."""
        self.running.remove(sequence)

    def free(self, sequence: Sequence) -> None:
        """It holds no blocks any more."""
        self.cache.give(sequence.held, sequence.blank)
        sequence.held, sequence.blank, sequence.published = [], 0, 0

    def _place(self, sequence: Sequence, budget: int) -> int | None:
        """Give a waiting request blocks for what it computes first; how much that is, None where they do not fit."""
        cache = self.cache
        hits = cache.found(sequence.hashes, sequence.to_compute)
        found = len(hits) * cache.block_tokens
        tokens = sequence.to_compute - found
        if sequence.kv is None:
            tokens = min(budget, tokens)
        new = cache.of(found + tokens) - len(hits)
        if not cache.take(hits, new):
            return None
        sequence.held, sequence.blank, sequence.published = list(hits), new, len(hits)
        sequence.computed = found
        self.queried_tokens += sequence.to_compute
        self.found_tokens += found
        return tokens

    def _schedule(self, sequence: Sequence, tokens: int, chunks: list[Chunk]) -> None:
        chunks.append((sequence, tokens))
        self._publish(sequence, sequence.computed + tokens)

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Blocks for so many tokens, at the expense of the youngest; False where it was itself the one to give way."""
        need = self.cache.of(tokens) - sequence.blocks
        if need <= 0:
            return True
        while not self.cache.take((), need):
            youngest = self.running.pop()
            self.preempted = True
            self.preemptions += 1
            self._again(youngest)
            if youngest is sequence:
                return False
        sequence.blank += need
        return True

    def _again(self, sequence: Sequence) -> None:
        self.free(sequence)
        sequence.restart()
        self._waiting.appendleft(sequence)
        self._waiting_tokens += _own_tokens(sequence)

    def _publish(self, sequence: Sequence, tokens: int) -> None:
        full = min(len(sequence.hashes), tokens // self.cache.block_tokens)
        for place in range(sequence.published, full):
            if self.cache.publish(sequence.hashes[place]):
                sequence.held.append(sequence.hashes[place])
                sequence.blank -= 1
        sequence.published = max(sequence.published, full)


def _own_tokens(sequence: Sequence) -> int:
    """Tokens of a waiting request that will be computed here."""
    return 0 if sequence.kv is not None else sequence.to_compute
