"""A lane's configuration as vLLM's engine arguments."""

import json
from typing import Any

import pytest

from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.lanes.vllm.arguments import GIB, engine_arguments
from streamserve.lanes.vllm.controls import decoded
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.signals import DepthControl, DepthMode
from streamserve.types import LaneId


def arguments(device: str = "cpu", engine: EngineConfig | None = None, **plan: Any) -> dict[str, Any]:
    return engine_arguments("tiny", engine or EngineConfig(), LanePlan(LaneId("lane-0"), 0, device, **plan))


def test_the_engine_is_configured_as_every_lane_is() -> None:
    engine = EngineConfig(dtype="float32", max_model_len=512, block_tokens=32, max_running=8, max_step_tokens=256)
    given = arguments(engine=engine)
    assert (given["model"], given["dtype"], given["max_model_len"], given["block_size"]) == ("tiny", "float32", 512, 32)
    assert (given["max_num_seqs"], given["max_num_batched_tokens"]) == (8, 256)


def test_the_block_size_is_left_to_vllm_unless_chosen() -> None:
    assert "block_size" not in arguments()


def test_a_cpu_lane_has_its_own_memory_and_runs_in_one_process() -> None:
    given = arguments("cpu", EngineConfig(kv_cache_gib=1.5))
    assert given["kv_cache_memory_bytes"] == 1.5 * GIB
    assert given["enforce_eager"] is True
    assert given["distributed_executor_backend"] == "streamserve.lanes.vllm.executor.LaneExecutor"
    assert "gpu_memory_utilization" not in given


def test_a_tensor_parallel_cpu_lane_keeps_the_executor_that_starts_its_ranks() -> None:
    given = arguments("cpu", tensor_parallel_size=2)
    assert given["tensor_parallel_size"] == 2
    assert "distributed_executor_backend" not in given


def test_a_gpu_lane_has_its_share_of_the_device() -> None:
    given = arguments("gpu", memory_fraction=0.45)
    assert given["gpu_memory_utilization"] == 0.45
    assert not {"enforce_eager", "kv_cache_memory_bytes", "distributed_executor_backend"} & given.keys()


@pytest.mark.parametrize(("device", "buffer"), [("cpu", "cpu"), ("gpu", "cuda")])
def test_kv_is_transferred_by_our_connector_where_there_is_another_lane(device: str, buffer: str) -> None:
    assert "kv_transfer_config" not in arguments(device)
    transfer = arguments(device, transfers_kv=True)["kv_transfer_config"]
    assert transfer["kv_connector_module_path"] == "streamserve.lanes.vllm.connector"
    assert (transfer["kv_connector"], transfer["kv_role"]) == ("NixlConnector", "kv_both")
    assert transfer["kv_buffer_device"] == buffer
    assert transfer["kv_load_failure_policy"] == "recompute"


def test_every_start_of_a_lane_is_a_new_transfer_identity() -> None:
    ids = [arguments(transfers_kv=True)["kv_transfer_config"]["engine_id"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert all(engine_id.startswith("lane-0-") for engine_id in ids)


@pytest.mark.parametrize("method", ["none", "history", "draft_model"])
def test_no_step_is_scheduled_before_the_last_ones_output_is_known(method: str) -> None:
    """Our scheduler decides on it; on GPU vLLM would run ahead, and drop the drafts of a draft model."""
    plan = LanePlan(LaneId("lane-0"), 0, "gpu")
    speculation = SpeculationConfig(method=method, model="draft")  # type: ignore[arg-type]
    assert engine_arguments("tiny", EngineConfig(), plan, speculation)["async_scheduling"] is False


class TestSpeculation:
    def given(self, **speculation: Any) -> dict[str, Any]:
        plan = LanePlan(LaneId("lane-0"), 0, "cpu")
        return engine_arguments("tiny", EngineConfig(max_running=8), plan, SpeculationConfig(**speculation))

    def test_ngram_drafts_are_looked_up_in_the_configured_lengths(self) -> None:
        drafting = self.given(method="ngram", max_depth=5, lookup_tokens=(3, 4))["speculative_config"]
        assert (drafting["method"], drafting["num_speculative_tokens"]) == ("ngram", 5)
        assert (drafting["prompt_lookup_min"], drafting["prompt_lookup_max"]) == (3, 4)

    def test_drafts_from_history_are_the_schedulers_and_vllm_proposes_nothing(self) -> None:
        given = self.given(history_lookup_tokens=4, history_tokens=100)
        assert given["additional_config"]["streamserve"]["history"] == [4, 100]
        assert given["speculative_config"]["model"] == "streamserve.lanes.vllm.silent.SilentProposer"
        assert self.given(method="ngram")["additional_config"]["streamserve"]["history"] is None

    def test_transferred_requests_are_never_padded_with_drafts(self) -> None:
        assert self.given(max_depth=5)["speculative_config"]["num_speculative_tokens_per_batch_size"] == [[1, 8, 5]]

    def test_a_model_drafts_where_one_is_named(self) -> None:
        drafting = self.given(method="eagle3", model="head", extra={"draft_tensor_parallel_size": 1})[
            "speculative_config"
        ]
        assert (drafting["method"], drafting["model"], drafting["draft_tensor_parallel_size"]) == ("eagle3", "head", 1)
        assert "prompt_lookup_max" not in drafting

    def test_a_lane_starts_with_the_configured_control(self) -> None:
        given = self.given(mode=DepthMode.FIXED, depth=3, max_depth=4)
        control = decoded(given["additional_config"]["streamserve"]["control"])
        assert control == DepthControl(DepthMode.FIXED, depth=3, max_depth=4)
        assert json.loads(json.dumps(given)) == given

    @pytest.mark.parametrize("stall_s", [None, 0.25])
    def test_the_lane_is_told_how_long_prompts_may_stall_decodes(self, stall_s: float | None) -> None:
        given = engine_arguments(
            "tiny", EngineConfig(stall_s=stall_s), LanePlan(LaneId("lane-0"), 0, "cpu"), SpeculationConfig()
        )
        assert given["additional_config"]["streamserve"]["stall_s"] == stall_s

    def test_without_drafting_the_lane_still_reports_its_steps(self) -> None:
        given = self.given(method="none")
        assert "speculative_config" not in given
        assert given["scheduler_cls"] == "streamserve.lanes.vllm.scheduler.LaneScheduler"

    def test_the_front_knows_nothing_of_drafting(self) -> None:
        assert not {"speculative_config", "scheduler_cls", "additional_config"} & arguments().keys()


def test_what_the_user_passes_through_wins() -> None:
    extra = {"enforce_eager": False, "seed": 7, "kv_transfer_config": None}
    given = arguments(engine=EngineConfig(extra=extra), transfers_kv=True)
    assert given.items() >= extra.items()


def test_the_arguments_are_plain_data() -> None:
    given = arguments(transfers_kv=True)
    assert json.loads(json.dumps(given)) == given
