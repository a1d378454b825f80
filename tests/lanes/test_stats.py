"""What a lane's engine reports, as signals. vLLM's own values, made by hand: no engine runs."""

import asyncio
from typing import Any

import pytest
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from streamserve import virtual
from streamserve.lanes.vllm.controls import REPORT, encoded
from streamserve.lanes.vllm.stats import LaneMeter, take_report, transfer_durations
from streamserve.signals import DepthControl, DepthMode, DeviceSignals, LaneSignals, StepCost
from streamserve.types import LaneId, LaneState

DEFAULT = DepthControl(DepthMode.SPECUSTREAM, max_depth=8)
FIXED = DepthControl(DepthMode.FIXED, 3)


def step(
    at_s: float, tokens: int = 0, report: dict[str, Any] | None = None, running: int = 1, **stats: Any
) -> EngineCoreOutputs:
    """One engine step: `tokens` of one request, and the scheduler's statistics."""
    outputs = [EngineCoreOutput("r", list(range(tokens)))] if tokens else []
    ours = None if report is None else {REPORT: report}
    scheduler = SchedulerStats(num_running_reqs=running, ec_connector_stats=ours, **stats)
    return EngineCoreOutputs(outputs=outputs, scheduler_stats=scheduler, timestamp=at_s)


def shown(meter: LaneMeter, **fields: Any) -> LaneSignals:
    return meter.snapshot(LaneState.READY, 0, 17, None, **fields)


class TestReport:
    def test_it_is_taken_out(self) -> None:
        stats = SchedulerStats(ec_connector_stats={REPORT: {"step_s": 1.0}})
        assert take_report(stats) == {"step_s": 1.0}
        assert stats.ec_connector_stats is None
        assert take_report(stats) is None

    def test_what_others_put_there_stays(self) -> None:
        stats = SchedulerStats(ec_connector_stats={REPORT: {}, "other": [1]})
        assert take_report(stats) == {}
        assert stats.ec_connector_stats == {"other": [1]}

    def test_an_observed_step_leaves_nothing_of_ours(self) -> None:
        outputs = step(1.0, report={"step_s": 0.1})
        LaneMeter(LaneId("a")).observe(outputs)
        assert outputs.scheduler_stats is not None and outputs.scheduler_stats.ec_connector_stats is None


class TestTransfers:
    def test_one_connector_or_several(self) -> None:
        nixl = {"transfer_duration": [0.1, 0.2], "bytes_transferred": [1, 2]}
        assert list(transfer_durations(nixl)) == [0.1, 0.2]
        assert list(transfer_durations({"NixlConnector": {"data": nixl}, "Other": {"hits": 3}})) == [0.1, 0.2]
        assert list(transfer_durations(None)) == []

    def test_the_keys_are_those_of_the_connector(self) -> None:
        from vllm.distributed.kv_transfer.kv_connector.v1.nixl.stats import NixlKVConnectorStats

        stats = NixlKVConnectorStats()
        stats.data["transfer_duration"].append(0.25)
        assert list(transfer_durations(stats.to_dict())) == [0.25]

    def test_they_are_counted_and_averaged_and_left_for_vllm(self) -> None:
        meter = LaneMeter(LaneId("a"))
        outputs = step(1.0, kv_connector_stats={"transfer_duration": [0.1, 0.3]})
        meter.observe(outputs)
        assert shown(meter).transfers_total == 2
        assert shown(meter).transfer_s.fast_s == pytest.approx(0.2) == shown(meter).transfer_s.slow_s
        assert outputs.scheduler_stats is not None and outputs.scheduler_stats.kv_connector_stats


class TestSnapshot:
    def test_before_the_first_report(self) -> None:
        bare = shown(LaneMeter(LaneId("a"), DEFAULT, max_running=5))
        assert bare == LaneSignals(LaneId("a"), LaneState.READY, 0.0, depth=DEFAULT, max_running=5, pid=17)

    def test_all_that_a_step_tells(self) -> None:
        meter = LaneMeter(LaneId("a"), DEFAULT)
        report = {
            "step_s": 0.2, "prefill_tokens": 100, "decode_tokens": 8, "prefill_queued_tokens": 300,
            "acceptance": [0.9, 0.5], "step_output": 1.8, "control": encoded(FIXED), "max_running": 12,
            "kv_tokens": 4096, "block_tokens": 32,
        }  # fmt: skip
        drafts = SpecDecodingStats(4, num_drafts=2, num_draft_tokens=6, num_accepted_tokens=3)
        cache = PrefixCacheStats(queries=10, hits=4)
        meter.observe(
            step(7.0, 5, report, 2, kv_cache_usage=0.25, prefix_cache_stats=cache, spec_decoding_stats=drafts)
        )
        device = DeviceSignals(6.5, 1.0)
        snapshot = shown(meter, device=device)
        assert (snapshot.at_s, snapshot.steps, snapshot.running, snapshot.kv_used) == (7.0, 1, 2, 0.25)
        assert snapshot.step_s == pytest.approx(0.2)
        assert snapshot.step_tokens == 108
        assert snapshot.output_tokens_per_s == pytest.approx(25)
        assert (snapshot.prefill_queued_tokens, snapshot.prefix_hit) == (300, 0.4)
        assert (snapshot.acceptance, snapshot.step_output, snapshot.depth) == ((0.9, 0.5), 1.8, FIXED)
        assert (snapshot.max_running, snapshot.kv_tokens, snapshot.block_tokens) == (12, 4096, 32)
        totals = (snapshot.output_tokens_total, snapshot.draft_tokens_total, snapshot.accepted_tokens_total)
        assert totals == (5, 6, 3)
        assert snapshot.device is device

    def test_cost_is_learned_from_the_steps(self) -> None:
        meter = LaneMeter(LaneId("a"))
        for at_s in range(200):
            meter.observe(step(float(at_s), 1, {"step_s": 0.5, "prefill_tokens": 0, "decode_tokens": 4}))
        cost = shown(meter).cost
        assert cost.steps == 200
        assert cost.decode_step_s(4) == pytest.approx(0.5, rel=0.05) != StepCost().decode_step_s(4)

    def test_rates_are_over_working_time(self) -> None:
        meter = LaneMeter(LaneId("a"))
        for at_s in (1.0, 1.1, 1000.0, 1000.1):
            meter.observe(step(at_s, 2, {"step_s": 0.1}))
        assert shown(meter).output_tokens_per_s == pytest.approx(20)

    def test_an_engine_without_our_report_is_timed_by_its_reports(self) -> None:
        meter = LaneMeter(LaneId("a"))
        for at_s, running in ((1.0, 1), (1.2, 1), (1.4, 0), (100.0, 1), (100.2, 1)):
            meter.observe(step(at_s, 3, running=running))
        snapshot = shown(meter)
        assert snapshot.step_s == pytest.approx(0.2)
        assert snapshot.output_tokens_per_s == pytest.approx(15)
        assert (snapshot.steps, snapshot.output_tokens_total, snapshot.cost.steps) == (5, 15, 0)

    def test_a_report_without_a_step_keeps_the_last_figures(self) -> None:
        meter = LaneMeter(LaneId("a"))
        meter.observe(step(1.0, 1, {"step_s": 0.1, "kv_tokens": 64, "step_output": 1.5}))
        meter.observe(step(2.0, 0, {"prefill_queued_tokens": 9}))
        snapshot = shown(meter)
        assert snapshot.step_s == pytest.approx(0.1)
        assert (snapshot.kv_tokens, snapshot.step_output) == (64, 1.5)
        assert snapshot.prefill_queued_tokens == 9

    def test_a_lost_engine_takes_its_load_and_its_control_along(self) -> None:
        meter = LaneMeter(LaneId("a"), DEFAULT)
        report = {"step_s": 0.1, "decode_tokens": 3, "prefill_queued_tokens": 50, "control": encoded(FIXED)}
        meter.observe(step(1.0, 1, report, kv_cache_usage=0.5))
        meter.forget_load()
        snapshot = shown(meter)
        assert (snapshot.running, snapshot.waiting, snapshot.kv_used, snapshot.prefill_queued_tokens) == (0, 0, 0.0, 0)
        assert (snapshot.step_tokens, snapshot.depth) == (0, DEFAULT)
        assert (snapshot.steps, snapshot.output_tokens_total) == (1, 1)

    def test_it_is_made_once_between_two_changes(self) -> None:
        meter = LaneMeter(LaneId("a"), DEFAULT)
        first = shown(meter)
        assert shown(meter) is first
        device = DeviceSignals(1.0, 0.5)
        assert shown(meter, device=device).device is device
        assert meter.snapshot(LaneState.LOST, 1, None, "killed").error == "killed"
        meter.observe(step(1.0, 1))
        assert shown(meter).steps == 1


class TestDepth:
    def test_a_control_shows_at_once_and_ends_though_the_engine_idles(self) -> None:
        async def scenario() -> list[DepthControl | None]:
            meter = LaneMeter(LaneId("a"), DEFAULT)
            meter.controlled(FIXED, 10.0)
            seen = [shown(meter).depth]
            await asyncio.sleep(9.9)
            seen.append(shown(meter).depth)
            await asyncio.sleep(0.2)
            return [*seen, shown(meter).depth]

        assert virtual.run(scenario()) == [FIXED, FIXED, DEFAULT]

    def test_a_report_of_the_same_control_does_not_prolong_it(self) -> None:
        async def scenario() -> DepthControl | None:
            meter = LaneMeter(LaneId("a"), DEFAULT)
            meter.controlled(FIXED, 10.0)
            meter.observe(step(5.0, 1, {"control": encoded(FIXED)}))
            await asyncio.sleep(10.1)
            return shown(meter).depth

        assert virtual.run(scenario()) == DEFAULT

    def test_the_engine_knows_best(self) -> None:
        meter = LaneMeter(LaneId("a"), DEFAULT)
        meter.observe(step(5.0, 1, {"control": encoded(FIXED)}))
        assert shown(meter).depth == FIXED
        meter.observe(step(6.0, 1, {"control": encoded(DEFAULT)}))
        assert shown(meter).depth == DEFAULT

    async def test_taking_a_control_back(self) -> None:
        meter = LaneMeter(LaneId("a"), DEFAULT)
        meter.controlled(FIXED, 1000.0)
        meter.controlled(None, 0.0)
        assert shown(meter).depth == DEFAULT

    def test_a_lane_that_does_not_speculate_has_none(self) -> None:
        meter = LaneMeter(LaneId("a"))
        meter.observe(step(1.0, 1, {"step_s": 0.1}))
        assert shown(meter).depth is None
