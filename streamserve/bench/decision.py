"""`python -m streamserve.bench.decision`: how long each router takes to decide, by the number of lanes.

Prints a Markdown table. All pairs are configured. Between decisions, some lanes report anew, requests come and go, and
the clock moves on.
The last row is no router but a loop that always does the same: what it has above its median is the machine's doing.
"""

import argparse
import random
import statistics
import time
from collections.abc import Iterator, Sequence

from streamserve.bench import report
from streamserve.flowguard import routers
from streamserve.flowguard.flowguard import KEPT, MOST_LANES
from streamserve.signals import Averages, DeviceSignals, LaneLoad, LaneSignals, Signals, StepCost
from streamserve.types import Finish, LaneId, LaneState, Request, Result

DECISION_S = 0.01
"""Time between two decisions."""
SHARED_TOKENS = 256
"""The first tokens of every prompt, of one of a few kinds."""


def lane_signals(lane: LaneId, at_s: float, draw: random.Random) -> LaneSignals:
    """A lane at work."""
    price_s = draw.uniform(0.5, 2.0)
    return LaneSignals(
        lane,
        LaneState.READY,
        at_s,
        running=draw.randrange(12),
        waiting=draw.randrange(3),
        kv_used=draw.random(),
        kv_tokens=40_000,
        cost=StepCost(((1, 0.04 * price_s), (8, 0.05 * price_s), (64, 0.2 * price_s)), 0.001 * price_s, steps=100),
        draft_tokens_total=1000,
        accepted_tokens_total=400,
        step_output=draw.uniform(1.0, 2.5),
        transfer_s=Averages(0.004, 0.005),
        device=DeviceSignals(cpu_cores=draw.random()),
    )


def moments(count: int, decisions: int, changing: float, draw: random.Random) -> Iterator[tuple[Request, Signals]]:
    """Requests and what a router sees when it decides on them. changing: share of lanes that report in between."""
    lanes = [LaneId(f"lane-{place}") for place in range(count)]
    snapshots = {lane: lane_signals(lane, 0.0, draw) for lane in lanes}
    load = {lane: LaneLoad() for lane in lanes}
    for number in range(decisions):
        at_s = DECISION_S * number
        for lane in lanes:
            if draw.random() < changing:
                snapshots[lane] = lane_signals(lane, at_s, draw)
                load[lane] = LaneLoad(draw.randrange(3), draw.randrange(1500), draw.randrange(12))
        kind = draw.randrange(8)
        prompt = [*range(kind, kind + SHARED_TOKENS), *(draw.randrange(32_000) for _ in range(draw.randrange(512)))]
        request = Request(f"r{number}", tuple(prompt), 128, arrived_s=at_s, continuable=True)
        yield request, Signals(at_s, dict(snapshots), dict(load))


def decide(name: str, lanes: int, decisions: int, changing: float) -> list[float]:
    """Seconds of each decision; every result is reported back, outside of the time."""
    ids = [LaneId(f"lane-{place}") for place in range(lanes)]
    router = routers.build(name, tuple((prefill, decode) for prefill in ids for decode in ids))
    took_s = []
    for request, signals in moments(lanes, decisions, changing, random.Random(lanes)):
        begun_s = time.perf_counter()
        decision = router.route(request, signals)
        took_s.append(time.perf_counter() - begun_s)
        ttft_s = decision.prediction.ttft_s if decision.prediction else 0.1
        router.learn(
            Result(
                request.id,
                decision,
                request.prompt_tokens,
                100,
                request.arrived_s,
                signals.at_s + ttft_s + 4.0,
                Finish.STOP,
                first_token_s=signals.at_s + ttft_s,
            )
        )
    return took_s[len(took_s) // 10 :]


def reference(decisions: int, took_s: float) -> list[float]:
    """Seconds of a loop of integer additions that takes about `took_s`, as often."""
    begun_s = time.perf_counter()
    sum(range(100_000))
    additions = int(100_000 * took_s / (time.perf_counter() - begun_s))
    measured_s = []
    for _ in range(decisions):
        begun_s = time.perf_counter()
        sum(range(additions))
        measured_s.append(time.perf_counter() - begun_s)
    return measured_s


def shown(took_s: Sequence[float]) -> str:
    """Median and p99, in us."""
    p99_s = statistics.quantiles(took_s, n=100, method="inclusive")[98]
    return f"{1e6 * statistics.median(took_s):.0f} / {1e6 * p99_s:.0f}"


def text(names: Sequence[str], lanes: Sequence[int], decisions: int, changing: float) -> str:
    """Measure and tell: a Markdown table of routers against lanes."""
    # Many lanes take long to draw, not to decide on.
    times = {count: max(50, min(decisions, decisions * 64 // count)) for count in lanes}
    medians_s: dict[int, float] = {}
    rows = []
    for name in names:
        cells = []
        for count in lanes:
            took_s = decide(name, count, times[count], changing)
            medians_s.setdefault(count, statistics.median(took_s))
            cells.append(shown(took_s))
        rows.append([name, *cells])
    rows.append(["(the same work)", *(shown(reference(times[count], medians_s[count])) for count in lanes)])
    said = f"us per decision, median / p99 of {decisions}; {changing:.0%} of the lanes report between two decisions.\n"
    said += (
        f"Beyond {MOST_LANES} lanes flowguard pairs the best {KEPT} prefill lanes with the best {KEPT} decode lanes."
    )
    return f"{said}\n\n{report.table(['lanes', *map(str, lanes)], rows)}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routers", nargs="+", default=list(routers.ROUTERS), choices=list(routers.ROUTERS))
    parser.add_argument("--lanes", nargs="+", type=int, default=[1, 2, 4, 16, 64, 256, 1024])
    parser.add_argument("--decisions", type=int, default=2000)
    parser.add_argument("--changing", type=float, default=0.5, help="share of lanes that report between two decisions")
    return parser


if __name__ == "__main__":
    given = arguments().parse_args()
    print(text(given.routers, given.lanes, given.decisions, given.changing))
