"""What an engine reports after each step, as `LaneSignals`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.metrics.stats import SchedulerStats

from streamserve.averages import DecayedMean, MovingLatency
from streamserve.clock import now
from streamserve.lanes.vllm.controls import REPORT, decoded
from streamserve.signals import DepthControl, DeviceSignals, LaneSignals
from streamserve.specustream.cost import StepCostModel
from streamserve.types import LaneId, LaneState

STEP_AVERAGE_S = 5.0
"""Working time over which step time and output rate are averaged."""


def take_report(stats: SchedulerStats) -> dict[str, Any] | None:
    """Our scheduler's report out of vLLM's statistics, which are then as vLLM's own loggers expect them."""
    others = stats.ec_connector_stats
    if not others or REPORT not in others:
        return None
    report: dict[str, Any] = others.pop(REPORT)
    if not others:
        stats.ec_connector_stats = None
    return report


def transfer_durations(stats: Mapping[str, Any] | None) -> Iterator[float]:
    """Seconds of each KV transfer that vLLM's NIXL connector reports, also where it is one of several connectors."""
    for name, value in (stats or {}).items():
        if name == "transfer_duration":
            yield from value
        elif isinstance(value, Mapping):
            yield from transfer_durations(value)


class LaneMeter:
    """Keeps the last report of a lane's engine, averages, and the totals since the lane's first start.

    default_depth: the control that an engine of this lane starts with, None = it does not speculate.
    max_running, max_step_tokens, stall_s: what the engine is configured for; the first is reported with the first step.
    """

    def __init__(
        self,
        lane: LaneId,
        default_depth: DepthControl | None = None,
        max_running: int = 64,
        max_step_tokens: int = 2048,
        stall_s: float | None = None,
    ) -> None:
        self._lane = lane
        self._stall_s = stall_s
        self._max_step_tokens = max_step_tokens
        self._default_depth = default_depth
        self._depth = default_depth
        self._depth_ends_s = math.inf
        self._cost = StepCostModel()
        self._transfer = MovingLatency()
        self._step_s = DecayedMean(STEP_AVERAGE_S)
        self._output_rate = DecayedMean(STEP_AVERAGE_S)
        self._worked_s = 0.0
        self._busy = False
        self._at_s = 0.0
        self._report: dict[str, Any] = {"max_running": max_running}
        self._running = 0
        self._waiting = 0
        self._kv_used = 0.0
        self._prefix_queries = 0
        self._prefix_hits = 0
        self._steps = 0
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._draft_tokens = 0
        self._accepted_tokens = 0
        self._shown: tuple[tuple[object, ...], LaneSignals] | None = None
        """The last snapshot and what it was asked with: many requests may be routed between two steps."""

    def observe(self, outputs: EngineCoreOutputs) -> None:
        """Take in the report of one engine step, and take our part out of vLLM's statistics."""
        self._shown = None
        since_s, self._at_s = outputs.timestamp - self._at_s, outputs.timestamp
        output_tokens = 0
        for output in outputs.outputs:
            output_tokens += len(output.new_token_ids)
            if output.prefill_stats is not None:
                self._prompt_tokens += output.prefill_stats.num_computed_tokens
        self._output_tokens += output_tokens
        stats = outputs.scheduler_stats
        if stats is None:
            return
        report = take_report(stats)
        if report is not None:
            self._observe_report(report)
        # An engine that reports no step times is measured from report to report, while it has work.
        step_s = report.get("step_s") if report is not None else since_s if self._busy else None
        self._observe_stats(stats)
        if step_s is not None and step_s > 0:
            self._worked_s += step_s
            self._step_s.add(step_s, self._worked_s)
            self._output_rate.add(output_tokens / step_s, self._worked_s, weight=step_s)

    def measure(self, outputs: EngineCoreOutputs) -> None:
        """Take in what a step cost and what the engine is, and nothing else."""
        report = take_report(outputs.scheduler_stats) if outputs.scheduler_stats is not None else None
        if report is not None and "step_s" in report:
            self._cost.observe(report["step_s"], report.get("prefill_tokens", 0), report.get("decode_tokens", 0))
            self._report |= {key: report[key] for key in ("max_running", "kv_tokens", "block_tokens") if key in report}
            self._shown = None

    def _observe_stats(self, stats: SchedulerStats) -> None:
        self._steps += 1
        self._running = stats.num_running_reqs
        self._waiting = stats.num_waiting_reqs + stats.num_skipped_waiting_reqs
        self._busy = bool(self._running)
        self._kv_used = stats.kv_cache_usage
        self._prefix_queries += stats.prefix_cache_stats.queries
        self._prefix_hits += stats.prefix_cache_stats.hits
        if stats.spec_decoding_stats is not None:
            self._draft_tokens += stats.spec_decoding_stats.num_draft_tokens
            self._accepted_tokens += stats.spec_decoding_stats.num_accepted_tokens
        for seconds in transfer_durations(stats.kv_connector_stats):
            self._transfer.add(seconds, self._at_s)

    def _observe_report(self, report: dict[str, Any]) -> None:
        self._report |= report
        if (step_s := report.get("step_s")) is not None:
            self._cost.observe(step_s, report.get("prefill_tokens", 0), report.get("decode_tokens", 0))
        if (control := report.get("control")) is not None:
            reported = decoded(control)
            if reported != self._depth:
                # Someone else's, or back to the default: either way the end that we knew of is not this one's.
                self._depth, self._depth_ends_s = reported, math.inf

    def controlled(self, control: DepthControl | None, ttl_s: float) -> None:
        """The engine has taken a depth control; an idle one would not report it."""
        self._shown = None
        self._depth = self._default_depth if control is None else control
        self._depth_ends_s = math.inf if control is None else now() + ttl_s

    def forget_load(self) -> None:
        """The engine is gone, and with it what ran on it and the depth control it was given."""
        self._running = self._waiting = 0
        self._busy = False
        self._kv_used = 0.0
        self._report |= {"prefill_queued_tokens": 0, "prefill_tokens": 0, "decode_tokens": 0}
        self.controlled(None, 0.0)

    def snapshot(
        self,
        state: LaneState,
        restarts: int,
        pid: int | None,
        error: str | None,
        device: DeviceSignals | None = None,
    ) -> LaneSignals:
        """The lane as of the last report, the same object until something changes.

        What the engine cannot know comes as arguments.
        """
        self._end_depth()
        asked = (state, restarts, pid, error, device)
        if self._shown is None or self._shown[0] != asked:
            self._shown = asked, self._snapshot(state, restarts, pid, error, device or DeviceSignals())
        return self._shown[1]

    def _snapshot(
        self, state: LaneState, restarts: int, pid: int | None, error: str | None, device: DeviceSignals
    ) -> LaneSignals:
        report = self._report
        return LaneSignals(
            lane=self._lane,
            state=state,
            at_s=self._at_s,
            running=self._running,
            waiting=self._waiting,
            max_running=report["max_running"],
            max_step_tokens=self._max_step_tokens,
            stall_s=self._stall_s,
            kv_used=self._kv_used,
            kv_tokens=report.get("kv_tokens", 0),
            block_tokens=report.get("block_tokens", 16),
            prefix_hit=self._prefix_hits / self._prefix_queries if self._prefix_queries else 0.0,
            prefill_queued_tokens=report.get("prefill_queued_tokens", 0),
            step_s=self._step_s.value or 0.0,
            step_tokens=report.get("prefill_tokens", 0) + report.get("decode_tokens", 0),
            output_tokens_per_s=self._output_rate.value or 0.0,
            cost=self._cost.cost,
            steps=self._steps,
            prompt_tokens_total=self._prompt_tokens,
            output_tokens_total=self._output_tokens,
            draft_tokens_total=self._draft_tokens,
            accepted_tokens_total=self._accepted_tokens,
            acceptance=tuple(report.get("acceptance", ())),
            step_output=report.get("step_output", 1.0),
            depth=self._depth,
            transfer_s=self._transfer.averages,
            transfers_total=self._transfer.samples,
            device=device,
            restarts=restarts,
            pid=pid,
            error=error,
        )

    def _end_depth(self) -> None:
        if self._depth_ends_s < math.inf and now() >= self._depth_ends_s:
            self.controlled(None, 0.0)
