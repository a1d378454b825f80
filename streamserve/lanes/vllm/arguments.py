"""A lane's configuration as vLLM's engine arguments: plain data, so that it can cross to the lane's process."""

import uuid
from typing import TYPE_CHECKING, Any

from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.lanes.vllm.controls import encoded
from streamserve.lanes.vllm.dtype import chosen
from streamserve.lanes.vllm.plan import LanePlan

if TYPE_CHECKING:
    from vllm.config import VllmConfig

GIB = 1024**3


def engine_arguments(
    model: str, engine: EngineConfig, plan: LanePlan, speculation: SpeculationConfig | None = None
) -> dict[str, Any]:
    """Keywords of vLLM's `AsyncEngineArgs`; a new KV-transfer identity at each call.

    speculation: None leaves drafting out. The front does: with it vLLM's input processor refuses requests with min_p or
    logit_bias, which a lane serves at depth 0.
    """
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": chosen(engine.dtype, plan.device),
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_running,
        "max_num_batched_tokens": engine.max_step_tokens,
        "tensor_parallel_size": plan.tensor_parallel_size,
    }
    if engine.block_tokens is not None:
        arguments["block_size"] = engine.block_tokens
    if plan.device == "cpu":
        # Compiling takes 100 s more at start and gains nothing on these kernels.
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": int(engine.kv_cache_gib * GIB)}
        if plan.tensor_parallel_size == 1:
            arguments["distributed_executor_backend"] = "streamserve.lanes.vllm.executor.LaneExecutor"
    else:
        arguments["gpu_memory_utilization"] = plan.memory_fraction
    if speculation is not None:
        arguments |= _scheduler_arguments(speculation, engine)
    if plan.transfers_kv:
        arguments["kv_transfer_config"] = {
            # The name stays vLLM's, which decides by it; the module makes it ours.
            "kv_connector": "NixlConnector",
            "kv_connector_module_path": "streamserve.lanes.vllm.connector",
            # Every lane may play either part.
            "kv_role": "kv_both",
            "kv_buffer_device": "cpu" if plan.device == "cpu" else "cuda",
            "kv_load_failure_policy": "recompute",
            "engine_id": f"{plan.id}-{uuid.uuid4()}",
            "kv_connector_extra_config": {"num_threads": 0} if plan.device == "cpu" else {},
        }
    return arguments | engine.extra


def _scheduler_arguments(speculation: SpeculationConfig, engine: EngineConfig) -> dict[str, Any]:
    history = (
        [speculation.history_lookup_tokens, speculation.history_tokens] if speculation.method == "history" else None
    )
    ours: dict[str, Any] = {
        "scheduler_cls": "streamserve.lanes.vllm.scheduler.LaneScheduler",
        "additional_config": {
            "streamserve": {"control": encoded(speculation.default), "history": history, "stall_s": engine.stall_s}
        },
        # It decides each step on the output of the last. On GPU vLLM would run a step ahead unless told otherwise, and
        # then neither reports steps rightly nor gives a draft model's tokens to the scheduler.
        "async_scheduling": False,
    }
    if speculation.method == "none":
        return ours
    drafting: dict[str, Any] = {
        "method": speculation.method,
        "num_speculative_tokens": speculation.max_depth,
        # Without a table vLLM pads every request that comes from another lane with useless draft tokens; this one
        # says the same as no table, and the lane's scheduler rewrites it for drafters whose depth costs time.
        "num_speculative_tokens_per_batch_size": [[1, engine.max_running, speculation.max_depth]],
    }
    if history:
        drafting |= {"method": "custom_class", "model": "streamserve.lanes.vllm.silent.SilentProposer"}
    elif speculation.method == "ngram":
        shortest, longest = speculation.lookup_tokens
        drafting |= {"prompt_lookup_min": shortest, "prompt_lookup_max": longest}
    else:
        drafting["model"] = speculation.model
    return ours | {"speculative_config": drafting | speculation.extra}


def vllm_config(arguments: dict[str, Any]) -> "VllmConfig":
    """vLLM's full configuration for these arguments; raises what vLLM raises on a model it cannot serve."""
    from vllm.config import KVTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    keywords = dict(arguments)
    if transfer := keywords.get("kv_transfer_config"):
        keywords["kv_transfer_config"] = KVTransferConfig(**transfer)
    return AsyncEngineArgs(**keywords).create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
