"""Load: the work on each lane, counted where it is dispatched, so never stale."""

from collections.abc import Callable, Iterable

from streamserve.clock import now
from streamserve.signals import LaneLoad
from streamserve.types import Decision, LaneId

IDLE = LaneLoad()


class Load:
    """What has been dispatched to each lane and is not finished."""

    def __init__(self, clock: Callable[[], float] = now) -> None:
        self._clock = clock
        self._lanes: dict[LaneId, LaneLoad] = {}

    def of(self, lanes: Iterable[LaneId]) -> dict[LaneId, LaneLoad]:
        """The load of each of these lanes."""
        return {lane: self._lanes.get(lane, IDLE) for lane in lanes}

    def add(
        self,
        lane: LaneId,
        prefill_requests: int = 0,
        prefill_tokens: int = 0,
        decode_requests: int = 0,
        awaited_requests: int = 0,
    ) -> None:
        """Change a lane's counts by this much, up or down."""
        load = self._lanes.get(lane, IDLE)
        self._lanes[lane] = LaneLoad(
            load.prefill_requests + prefill_requests,
            load.prefill_tokens + prefill_tokens,
            load.decode_requests + decode_requests,
            load.awaited_requests + awaited_requests,
            self._clock() if prefill_requests + decode_requests > awaited_requests else load.given_s,
        )


class Dispatched:
    """One request's share of the load: as prefill until it is prefilled, as decode until it is finished.

    Each part is taken off exactly once, however often its end is reported.
    """

    def __init__(self, load: Load, decision: Decision, prefill_tokens: int) -> None:
        self.decision = decision
        self._load = load
        self._prefill_tokens = prefill_tokens
        self._prefilling = True
        self._decoding = True
        load.add(decision.prefill, prefill_requests=1, prefill_tokens=prefill_tokens)
        load.add(decision.decode, decode_requests=1, awaited_requests=int(decision.disaggregated))

    def prefilled(self) -> None:
        """Take the prefill part off."""
        if self._prefilling:
            self._prefilling = False
            self._load.add(self.decision.prefill, prefill_requests=-1, prefill_tokens=-self._prefill_tokens)
            if self.decision.disaggregated:
                self._load.add(self.decision.decode, awaited_requests=-1)

    def finished(self) -> None:
        """Take off whatever is left."""
        self.prefilled()
        if self._decoding:
            self._decoding = False
            self._load.add(self.decision.decode, decode_requests=-1)
