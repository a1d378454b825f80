"""Caches: how much of a prompt each lane need not compute again."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from streamserve.flowguard.pairs import Candidates, Floats, Pairs, Topology
from streamserve.flowguard.prefix import Chain, PrefixIndex, cachable_blocks, chain
from streamserve.flowguard.table import LaneTable, LaneVectors
from streamserve.signals import Signals
from streamserve.types import Request


class Cached(NamedTuple):
    """One prompt against all caches."""

    tokens: Floats
    """Per lane: prompt tokens found there."""
    chains: Mapping[int, Chain]
    """By block size."""


class Caches:
    """The `PrefixIndex` of the lanes in the signals; a lane that restarted has lost its cache."""

    def __init__(self) -> None:
        self._index = PrefixIndex()

    def look(self, request: Request, lanes: LaneVectors) -> Cached:
        """What each lane probably holds of the request's prompt."""
        for lane in lanes.restarted:
            self._index.forget(lane)
        # Nearly always there is one size: the rest of the work is done once per size, not once per lane.
        sizes = {snapshot.block_tokens for snapshot in lanes.snapshots}
        chains = {size: chain(request.prompt_token_ids, size) for size in {max(1, size) for size in sizes}}
        tokens = [0.0] * len(lanes.lanes)
        for size, blocks in chains.items():
            if not (matched := self._index.matched(blocks)):
                continue
            most = cachable_blocks(request.prompt_tokens, size)
            for place, (lane, snapshot) in enumerate(zip(lanes.lanes, lanes.snapshots, strict=True)):
                if lane in matched and snapshot.block_tokens == size:
                    tokens[place] = float(size * min(most, matched[lane]))
        return Cached(np.array(tokens), chains)

    def sent(self, cached: Cached, lanes: LaneVectors, prefill: int, decode: int) -> None:
        """The prompt goes to the pair at these places; both lanes hold it afterwards."""
        for place in {prefill, decode}:
            snapshot = lanes.snapshots[place]
            size = max(1, snapshot.block_tokens)
            self._index.sent(cached.chains[size], lanes.lanes[place], snapshot.kv_tokens // size)


class Seen(NamedTuple):
    """One request's candidates, the lanes, and what their caches hold of its prompt."""

    field: Candidates
    lanes: LaneVectors
    cached: Cached


class Outlook:
    """What a router sees that looks for prompts in the lanes' caches."""

    def __init__(self, pairs: Pairs) -> None:
        self.topology = Topology(pairs)
        self._table = LaneTable()
        self._caches = Caches()

    def look(self, request: Request, signals: Signals) -> Seen:
        """Raises `NoLane`."""
        field = self.topology.candidates(request, signals)
        lanes = self._table.read(signals)
        return Seen(field, lanes, self._caches.look(request, lanes))

    def sent(self, seen: Seen, prefill: int, decode: int) -> None:
        """The prompt goes to the lanes at these places."""
        self._caches.sent(seen.cached, seen.lanes, prefill, decode)
