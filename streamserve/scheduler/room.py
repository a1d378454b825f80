"""Room: which lanes should be given another prompt now, so that the rest waits where its order can still change."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from streamserve.signals import LaneLoad, LaneSignals
from streamserve.types import LaneId, LaneState


class Room:
    """Late binding: a prompt is bound to a lane only when that lane is about to run out of prompts.

    pairs: the stream pairs that a router may choose.
    backlog_s: how much prefill may be ahead of a lane for it to get more.
    """

    def __init__(self, pairs: Sequence[tuple[LaneId, LaneId]], backlog_s: float) -> None:
        self._decodes: defaultdict[LaneId, set[LaneId]] = defaultdict(set)
        for prefill, decode in pairs:
            self._decodes[prefill].add(decode)
        self._backlog_s = backlog_s

    def lanes(self, signals: Mapping[LaneId, LaneSignals], load: Mapping[LaneId, LaneLoad]) -> frozenset[LaneId]:
        """The prefill lanes with room: little left to prefill, and a place in a batch there and on a decode lane.

        As for routers, every ready lane pairs with itself while no configured pair is ready.
        """
        ready, batch, short = set(), set(), []
        for lane, snapshot in signals.items():
            if snapshot.state is not LaneState.READY:
                continue
            ready.add(lane)
            work = load[lane]
            if work.prefill_requests + work.decode_requests < snapshot.max_running:
                batch.add(lane)
                if self._short(snapshot, work):
                    short.append(lane)
        some = frozenset(lane for lane in short if not batch.isdisjoint(self._decodes.get(lane, ())))
        if some or any(lane in ready and not ready.isdisjoint(decodes) for lane, decodes in self._decodes.items()):
            return some
        return frozenset(short)

    def _short(self, snapshot: LaneSignals, load: LaneLoad) -> bool:
        return not load.prefill_requests or load.prefill_tokens * snapshot.cost.prefill_token_s < self._backlog_s
