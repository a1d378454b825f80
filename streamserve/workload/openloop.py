"""Open-loop runs: requests are sent when the plan says so, however far behind the system is.

Latencies count from the planned arrival, not from when this process came round to sending: a load generator that is
held up by the system it measures would hide the system's worst moments.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from streamserve.clock import now
from streamserve.errors import ServeError
from streamserve.protocols import TokenStream
from streamserve.types import NO_SLO, Decision, LaneId, Request, Result, Slo
from streamserve.workload.plan import Plan, Planned


class Scheduler(Protocol):
    """What a run needs of a `StreamScheduler`."""

    def serve(self, request: Request, on_decision: Callable[[Decision], None]) -> TokenStream: ...

    async def close(self) -> None: ...


OnResult = Callable[[Result], None]
OpenScheduler = Callable[[OnResult], Scheduler]
MakeRequest = Callable[[str, int, Planned, float, Slo], Request]
"""Id, place in the plan, what was planned, arrival on the loop's clock, SLO to announce -> the request."""

LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a plan: one result per planned request, in the plan's order."""

    plan: Plan
    results: tuple[Result, ...]
    begun_s: float
    itl_s: tuple[float, ...] = field(repr=False)
    """Times between two pieces of output of the same request, as vLLM's benchmark takes them."""
    outputs: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    """The tokens of every request where they were to be kept."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Mean and percentiles, in seconds."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run.

    Latencies are those of the requests that finished; the failed ones are counted, and count against goodput.
    """

    requests: int
    failed: int
    duration_s: float
    """From the first arrival to the last end."""
    requests_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float
    """Requests that met every latency of the SLO, per second."""
    slo_share: float
    e2e: Latency | None
    ttft: Latency | None
    tpot: Latency | None
    itl: Latency | None
    lane_share: Mapping[LaneId, float]
    """Share of the requests that each lane decoded."""
    disaggregated_share: float
    """Share whose KV crossed lanes."""


async def send(
    plan: Plan,
    open_scheduler: OpenScheduler,
    make_request: MakeRequest,
    *,
    announce_slo: bool = True,
    limit_s: float = LIMIT_S,
    keep_outputs: bool = False,
) -> Run:
    """Run a plan through a scheduler of its own and wait for the last result.

    announce_slo: whether requests carry their SLO; it is judged by in any case. keep_outputs: keep their tokens.
    limit_s: what is not finished so long after the last arrival is ended and counts as failed.
    """
    results: dict[str, Result] = {}

    def keep(result: Result) -> None:
        results[result.request_id] = result

    scheduler = open_scheduler(keep)
    itl_s: list[float] = []
    outputs: list[list[int]] = [[] for _ in plan if keep_outputs]
    begun_s = now()
    readers: list[asyncio.Task[None]] = []
    ids = [f"{begun_s:.3f}-{number}" for number in range(len(plan))]
    try:
        for number, each in enumerate(plan):
            at_s = begun_s + each.arrival_s
            await asyncio.sleep(max(0.0, at_s - now()))
            slo = each.slo if announce_slo else NO_SLO
            request = make_request(ids[number], number, each, at_s, slo)
            output = outputs[number] if keep_outputs else None
            readers.append(asyncio.create_task(_read(scheduler, request, itl_s, output)))
        await asyncio.wait(readers, timeout=limit_s)
    finally:
        await scheduler.close()
        outcomes = await asyncio.gather(*readers, return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    found = tuple(results[request_id] for request_id in ids)
    return Run(plan, found, begun_s, tuple(itl_s), tuple(map(tuple, outputs)))


async def _read(scheduler: Scheduler, request: Request, itl_s: list[float], output: list[int] | None) -> None:
    # A request that fails has its error in its result.
    with suppress(ServeError):
        last_s: float | None = None
        async for chunk in scheduler.serve(request, lambda _decision: None):
            if chunk.token_ids:
                if last_s is not None:
                    itl_s.append(chunk.at_s - last_s)
                last_s = chunk.at_s
                if output is not None:
                    output += chunk.token_ids


def summarise(run: Run) -> Summary:
    """The figures of a run."""
    results = [replace(result, slo=each.slo) for result, each in zip(run.results, run.plan, strict=True)]
    finished = [result for result in results if result.finish.by_itself]
    met = sum(result.slo_met for result in results)
    duration_s = max(result.finished_s for result in results) - min(result.arrived_s for result in results)
    decisions = [result.decision for result in results if result.decision is not None]
    lanes = sorted({lane for each in decisions for lane in (each.prefill, each.decode)})
    return Summary(
        requests=len(results),
        failed=len(results) - len(finished),
        duration_s=duration_s,
        requests_per_s=len(finished) / duration_s,
        output_tokens_per_s=sum(result.output_tokens for result in results) / duration_s,
        goodput_per_s=met / duration_s,
        slo_share=met / len(results),
        e2e=latency([result.e2e_s for result in finished]),
        ttft=latency([result.ttft_s for result in finished if result.ttft_s is not None]),
        tpot=latency([result.tpot_s for result in finished if result.tpot_s is not None]),
        itl=latency(run.itl_s),
        lane_share={lane: sum(each.decode == lane for each in decisions) / len(decisions) for lane in lanes},
        disaggregated_share=sum(each.disaggregated for each in decisions) / max(1, len(decisions)),
    )


def latency(values_s: Sequence[float]) -> Latency | None:
    """Mean and percentiles (linear between the values, as numpy and vLLM's benchmark take them); None of nothing."""
    if not values_s:
        return None
    p50, p90, p99 = np.percentile(values_s, [50, 90, 99])
    return Latency(float(np.mean(values_s)), float(p50), float(p90), float(p99))
