"""The part of vLLM's `EngineClient` that controls one engine, which has no meaning for a front over many lanes."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NoReturn

from vllm.engine.protocol import EngineClient
from vllm.exceptions import GracefulHTTPError
from vllm.inputs import EngineInput, PromptType
from vllm.lora.request import LoRARequest
from vllm.outputs import PoolingRequestOutput
from vllm.pooling_params import PoolingParams


def _refuse(what: str) -> NoReturn:
    raise GracefulHTTPError(f"StreamServe does not offer {what}", HTTPStatus.NOT_IMPLEMENTED)


class WithoutEngineControls(EngineClient):
    """Answers 501 to pooling, profiling, sleeping and pausing; requests are aborted by closing their generator."""

    def encode(
        self,
        prompt: PromptType | EngineInput,
        pooling_params: PoolingParams,
        request_id: str,
        lora_request: LoRARequest | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        tokenization_kwargs: dict[str, Any] | None = None,
        reasoning_ended: bool | None = None,
    ) -> AsyncGenerator[PoolingRequestOutput, None]:
        _refuse("pooling models")

    async def abort(self, request_id: str | Iterable[str]) -> None:
        _refuse("aborting by id: close the connection instead")

    async def notify_kv_transfer_request_rejected(
        self, request_id: str, kv_transfer_params: dict[str, Any], *, data_parallel_rank: int | None = None
    ) -> None:
        """Nothing to free: KV parameters that come from a client are never used."""

    async def is_tracing_enabled(self) -> bool:
        return False

    async def do_log_stats(self) -> None:
        """Nothing to do: the series are kept up to date as engines report."""

    async def start_profile(
        self,
        profile_prefix: str | None = None,
        *,
        delay_iterations: int | None = None,
        max_iterations: int | None = None,
    ) -> None:
        _refuse("profiling")

    async def stop_profile(self) -> None:
        _refuse("profiling")

    async def reset_mm_cache(self) -> None:
        _refuse("resetting caches")

    async def reset_encoder_cache(self) -> None:
        _refuse("resetting caches")

    async def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        _refuse("resetting caches")

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        _refuse("sleep mode")

    async def release_kv_cache_memory(self) -> None:
        _refuse("sleep mode")

    async def wake_up(self, tags: list[str] | None = None) -> bool:
        _refuse("sleep mode")

    async def is_sleeping(self) -> bool:
        return False

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        _refuse("adding LoRA adapters at run time")

    async def pause_generation(self, *, mode: str = "abort", clear_cache: bool = True) -> None:
        _refuse("pausing")

    async def resume_generation(self) -> None:
        _refuse("pausing")

    async def is_paused(self) -> bool:
        return False

    def shutdown(self, timeout: float | None = None) -> None:
        """Nothing to do: whoever started the lanes stops them."""
