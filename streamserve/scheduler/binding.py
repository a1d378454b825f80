"""Binding: when requests are bound to lanes, at once or late."""

import math
from collections.abc import Mapping, Sequence

from streamserve.config import SchedulerConfig
from streamserve.scheduler.room import Room
from streamserve.signals import LaneLoad, LaneSignals
from streamserve.types import LaneId, Request

MEMORY_S = 60.0
"""For how long after a request with a priority another is expected."""


class Binding:
    """Late, while requests are meant to overtake: as long as some have a priority, or where the order is not `fcfs`.

    Waiting in our queue costs throughput: lanes that get their prompts one by one decode in smaller batches meanwhile,
    and a router can only choose among those that have room. So a wish for a latency is no reason to: in bursts that
    costs those who wish more than going first brings them.
    """

    def __init__(self, config: SchedulerConfig, pairs: Sequence[tuple[LaneId, LaneId]]) -> None:
        self._room = None if config.backlog_s is None else Room(pairs, config.backlog_s)
        always = config.late_binding == "always" or config.order != "fcfs"
        self._late_until_s = math.inf if always else -math.inf

    def saw(self, request: Request, at_s: float) -> None:
        """A request has come."""
        if request.priority:
            self._late_until_s = max(self._late_until_s, at_s + MEMORY_S)

    def room(
        self, lanes: Mapping[LaneId, LaneSignals], load: Mapping[LaneId, LaneLoad], at_s: float
    ) -> frozenset[LaneId] | None:
        """The prefill lanes that should be given another prompt now, None = all."""
        if self._room is None or at_s >= self._late_until_s:
            return None
        return self._room.lanes(lanes, load)
