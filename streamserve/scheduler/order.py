"""Order: when a request is due in our queue; the least `due_s` leaves first, among equal priorities.

Every order is one instant per request, fixed when it arrives. Nothing is sorted again as requests age, and since no
request is due before it arrives, each is overtaken only by those that arrive before it is due: nothing starves.
(Virtual times, as in fair queueing: Demers, Keshav, Shenker, SIGCOMM 1989; slack: earliest deadline first.)
"""

from collections.abc import Callable

from streamserve.config import SchedulerConfig
from streamserve.scheduler.work import Work
from streamserve.types import Request, Slo

ASSUMED_TTFT_S = 2.0
"""The time to first token that requests without a wish are taken to want, beside others that say what they want."""


def due_s(
    request: Request, asked: Slo, default: Slo, config: SchedulerConfig, predict: Callable[[Request], Work]
) -> float:
    """The request's instant on the queue's time line, never before `arrived_s`.

    asked: what the request itself names, default: what the configuration names for those that do not.
    A request that names a TTFT goes by its slack, arrived + TTFT - prefill, in any order; under `slack` so do the
    others where a default TTFT is configured. All others are due as by `config.order`: at arrival (`fcfs`, `slack`), or
    later by `patience` times their predicted work (`shortest_work`), and `ASSUMED_TTFT_S` (or the default TTFT) later.
    That shift is the same for all of them, so it decides only how they mix with requests that go by slack.
    """
    ttft_s = default.ttft_s if asked.ttft_s is None and config.order == "slack" else asked.ttft_s
    if ttft_s is not None:
        # No slack is left below zero: a wish that nothing can grant must not push aside those that came long before.
        return request.arrived_s + max(0.0, ttft_s - predict(request).prefill_s)
    shift_s = ASSUMED_TTFT_S if default.ttft_s is None else default.ttft_s
    if config.order == "shortest_work":
        shift_s += config.patience * predict(request).total_s
    return request.arrived_s + shift_s
