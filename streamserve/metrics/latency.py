"""TTFT and TPOT of every lane, learned from results and shown in its signals.

Only who admitted a request knows when it arrived, so these two come from results and not from the lane; an engine
around the engine puts them into the snapshots, for live and simulated lanes alike.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from streamserve.averages import MovingLatency
from streamserve.protocols import Engine, TokenStream
from streamserve.signals import Averages, DepthControl, LaneSignals, with_latencies
from streamserve.types import Decision, LaneId, Request, Result

NONE_YET = Averages()


class LatencyAverages:
    """Moving averages per lane: TTFT where the prompt was computed, TPOT where the request was decoded."""

    def __init__(self) -> None:
        self._ttft: defaultdict[LaneId, MovingLatency] = defaultdict(MovingLatency)
        self._tpot: defaultdict[LaneId, MovingLatency] = defaultdict(MovingLatency)

    def learn(self, result: Result) -> None:
        """Take in a request that ended.

        A request whose output was begun by an earlier attempt teaches nothing, for its lanes are not the ones at fault;
        one that was ended from outside has a TTFT but no TPOT, as its last token is older than its end.
        """
        decision = result.decision
        if decision is None or result.first_token_s is None or result.ttft_s is None:
            return
        if result.dispatched_s is not None and result.first_token_s < result.dispatched_s:
            return
        self._ttft[decision.prefill].add(result.ttft_s, result.finished_s)
        if result.tpot_s is not None and result.finish.by_itself:
            self._tpot[decision.decode].add(result.tpot_s, result.finished_s)

    def of(self, lane: LaneId) -> tuple[Averages, Averages]:
        """The lane's TTFT and TPOT; the same objects until either changes."""
        ttft, tpot = self._ttft.get(lane), self._tpot.get(lane)
        return ttft.averages if ttft else NONE_YET, tpot.averages if tpot else NONE_YET


class EngineWithLatencies:
    """An `Engine` whose snapshots tell TTFT and TPOT as well."""

    def __init__(self, engine: Engine, averages: LatencyAverages) -> None:
        self._engine = engine
        self._averages = averages
        self._last: dict[LaneId, tuple[LaneSignals, Averages, Averages, LaneSignals]] = {}

    def signals(self) -> Mapping[LaneId, LaneSignals]:
        return {lane: self._with_latencies(lane, snapshot) for lane, snapshot in self._engine.signals().items()}

    def stream(
        self, request: Request, decision: Decision, on_prefilled: Callable[[], None], sent: Sequence[int] = ()
    ) -> TokenStream:
        return self._engine.stream(request, decision, on_prefilled, sent)

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None:
        await self._engine.control(lane, control, ttl_s)

    def _with_latencies(self, lane: LaneId, snapshot: LaneSignals) -> LaneSignals:
        ttft, tpot = self._averages.of(lane)
        last = self._last.get(lane)
        # A snapshot has some forty fields, and copying those of many lanes for each request would show.
        if last is not None and last[0] is snapshot and last[1] is ttft and last[2] is tpot:
            return last[3]
        merged = with_latencies(snapshot, ttft, tpot)
        self._last[lane] = (snapshot, ttft, tpot, merged)
        return merged
