"""The lanes' signals as Prometheus series, read when they are scraped."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamserve.clock import now
from streamserve.signals import DepthControl, LaneSignals, Signals
from streamserve.types import LaneState

READ_S = 5.0
"""How long a scrape waits for the serving loop."""

Labels = tuple[str, ...]
Samples = Iterable[tuple[Labels, float | None]]
"""Values of one lane by the labels beside `lane`; None = not known, and then no sample."""


class SignalSource(Protocol):
    """Who knows the signals: the scheduler."""

    def signals(self) -> Signals: ...


@dataclass(frozen=True, slots=True)
class Series:
    """One series of every lane."""

    name: str
    meaning: str
    read: Callable[[LaneSignals], Samples]
    labels: Labels = ()
    counter: bool = False

    def family(self) -> Metric:
        """The series without samples."""
        kind = CounterMetricFamily if self.counter else GaugeMetricFamily
        return kind(f"streamserve:{self.name}", self.meaning, labels=("lane", *self.labels))


def _one(read: Callable[[LaneSignals], float | None]) -> Callable[[LaneSignals], Samples]:
    return lambda lane: (((), read(lane)),)


def _state(lane: LaneSignals) -> Samples:
    return [((state.value,), float(lane.state is state)) for state in LaneState]


def _of_depth(read: Callable[[DepthControl], float | None]) -> Callable[[LaneSignals], Samples]:
    return lambda lane: (((), None if lane.depth is None else read(lane.depth)),)


def _depth(lane: LaneSignals) -> Samples:
    return [((lane.depth.mode.value,), 1.0)] if lane.depth else []


def _windows(name: str) -> Callable[[LaneSignals], Samples]:
    def read(lane: LaneSignals) -> Samples:
        averages = getattr(lane, name)
        return [(("10s",), averages.fast_s), (("120s",), averages.slow_s)]

    return read


# What vLLM counts under names of its own (running and waiting requests, KV use, cache hits, draft tokens) is not here.
LANE_SERIES: tuple[Series, ...] = (
    Series("lane_state", "1 for the state that the lane is in.", _state, ("state",)),
    Series("lane_restarts", "Starts of the lane after its first.", _one(lambda lane: lane.restarts), counter=True),
    Series("lane_max_running", "Requests that fit into one batch.", _one(lambda lane: lane.max_running)),
    Series("lane_max_step_tokens", "Tokens of one step.", _one(lambda lane: lane.max_step_tokens)),
    Series("kv_tokens", "Tokens that the lane's KV blocks hold together.", _one(lambda lane: lane.kv_tokens)),
    Series("prefill_queued_tokens", "Accepted, not computed.", _one(lambda lane: lane.prefill_queued_tokens)),
    Series("steps", "Steps that the engine reported.", _one(lambda lane: lane.steps), counter=True),
    Series("step_seconds", "Moving average of a step's time.", _one(lambda lane: lane.step_s)),
    Series("step_tokens", "Tokens that the last step computed.", _one(lambda lane: lane.step_tokens)),
    Series("output_tokens_per_second", "Moving average while busy.", _one(lambda lane: lane.output_tokens_per_s)),
    Series(
        "step_cost_seconds", "Learned time of a step that verifies this many tokens.",
        lambda lane: [((str(tokens),), seconds) for tokens, seconds in lane.cost.decode_s], ("tokens",),
    ),
    Series("prefill_token_seconds", "Learned time per prompt token.", _one(lambda lane: lane.cost.prefill_token_s)),
    Series("step_cost_steps", "Steps the cost was learned from.", _one(lambda lane: lane.cost.steps), counter=True),
    Series("lane_prompt_tokens", "Computed here.", _one(lambda lane: lane.prompt_tokens_total), counter=True),
    Series("lane_output_tokens", "Generated here.", _one(lambda lane: lane.output_tokens_total), counter=True),
    Series(
        "acceptance", "Probability that the draft token at this position is accepted if those before it were.",
        lambda lane: [((str(place),), share) for place, share in enumerate(lane.acceptance, 1)], ("position",),
    ),
    Series("step_output_tokens", "Tokens per decoding request and step.", _one(lambda lane: lane.step_output)),
    Series("depth_mode", "1 for the depth control's mode.", _depth, ("mode",)),
    Series("depth_fixed", "Depth of mode fixed.", _of_depth(lambda control: control.depth)),
    Series("depth_target", "Target of mode target_acceptance.", _of_depth(lambda control: control.target)),
    Series("depth_price", "Price of mode specustream.", _of_depth(lambda control: control.price)),
    Series("depth_max", "Cap in any mode.", _of_depth(lambda control: control.max_depth)),
    Series("kv_transfers", "Prompts fetched.", _one(lambda lane: lane.transfers_total), counter=True),
    Series("kv_transfer_average_seconds", "Time of a KV fetch.", _windows("transfer_s"), ("window",)),
    Series("lane_ttft_average_seconds", "TTFT of prompts computed here.", _windows("ttft_s"), ("window",)),
    Series("lane_tpot_average_seconds", "TPOT of requests decoded here.", _windows("tpot_s"), ("window",)),
    Series("lane_cpu_cores", "Cores in use by the lane's processes.", _one(lambda lane: lane.device.cpu_cores)),
    Series("lane_rss_bytes", "Resident memory of the lane's processes.", _one(lambda lane: lane.device.rss_bytes)),
    Series("lane_gpu_memory_ratio", "GPU memory in use, 0 to 1.", _one(lambda lane: lane.device.gpu_memory_used)),
    Series("lane_gpu_busy_ratio", "Time with a GPU kernel running, 0 to 1.", _one(lambda lane: lane.device.gpu_busy)),
    Series("lane_gpu_celsius", "GPU temperature.", _one(lambda lane: lane.device.gpu_celsius)),
)  # fmt: skip

QUEUED = ("queued_requests", "Requests in StreamServe's own queue.")
AGE = ("lane_signal_age_seconds", "Time since the lane's engine last reported.")
DISPATCHED = ("dispatched_requests", "Requests dispatched to the lane and not ended, by the part they are there for.")
DISPATCHED_TOKENS = ("dispatched_prefill_tokens", "Prompt tokens dispatched to the lane and not prefilled.")


class LaneCollector(Collector):
    """Reads the signals once per scrape, on the serving loop: vLLM's route is scraped from threads.

    Made on that loop. A scrape that it does not answer within 5 s raises `TimeoutError`.
    """

    def __init__(self, source: SignalSource) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterator[Metric]:
        """Every series that `collect` may give, without samples."""
        yield GaugeMetricFamily(f"streamserve:{QUEUED[0]}", QUEUED[1])
        yield _gauge(AGE)
        yield _gauge(DISPATCHED, "part")
        yield _gauge(DISPATCHED_TOKENS)
        yield from (series.family() for series in LANE_SERIES)

    def collect(self) -> Iterator[Metric]:
        signals, at_s = self._read()
        yield GaugeMetricFamily(f"streamserve:{QUEUED[0]}", QUEUED[1], value=signals.queued)
        yield from _of_scheduler(signals, at_s)
        lanes = list(signals.lanes.values())
        yield from (_filled(series, lanes) for series in LANE_SERIES)

    def _read(self) -> tuple[Signals, float]:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            return self._source.signals(), now()
        return asyncio.run_coroutine_threadsafe(self._on_loop(), self._loop).result(READ_S)

    async def _on_loop(self) -> tuple[Signals, float]:
        return self._source.signals(), now()


def install(source: SignalSource, registry: CollectorRegistry) -> LaneCollector:
    """Show these signals in this registry from now on; to be called on the serving loop."""
    collector = LaneCollector(source)
    registry.register(collector)
    return collector


def _gauge(series: tuple[str, str], *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"streamserve:{series[0]}", series[1], labels=("lane", *labels))


def _of_scheduler(signals: Signals, at_s: float) -> Iterator[Metric]:
    age, requests, tokens = _gauge(AGE), _gauge(DISPATCHED, "part"), _gauge(DISPATCHED_TOKENS)
    for lane, snapshot in signals.lanes.items():
        if snapshot.at_s:
            age.add_metric((lane,), at_s - snapshot.at_s)
        load = signals.load[lane]
        requests.add_metric((lane, "prefill"), load.prefill_requests)
        requests.add_metric((lane, "decode"), load.decode_requests)
        tokens.add_metric((lane,), load.prefill_tokens)
    yield from (age, requests, tokens)


def _filled(series: Series, lanes: Sequence[LaneSignals]) -> Metric:
    family = series.family()
    suffix = "_total" if series.counter else ""
    for lane in lanes:
        for labels, value in series.read(lane):
            if value is not None:
                names = ("lane", *series.labels)
                family.add_sample(family.name + suffix, dict(zip(names, (lane.lane, *labels), strict=True)), value)
    return family
