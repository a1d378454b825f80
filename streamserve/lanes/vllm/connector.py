"""vLLM's NIXL connector with what a StreamServe lane needs changed; vLLM loads it by module path.

Three changes: the transfer agent of a CPU lane is quiet and leaves the lane on its cores, and a decode lane may be
given a prompt that is longer than the KV on the prefill lane (the tokens already sent to the client follow it).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from nixl._api import nixl_thread_sync_t
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import base_worker
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlPullConnector
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_scheduler import NixlPullConnectorScheduler
from vllm.platforms import current_platform

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


class LaneTransferScheduler(NixlPullConnectorScheduler):
    """Fetches as many tokens as the prefill lane computed, not as many as the prompt has here."""

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int, bool]:
        params = request.kv_transfer_params
        if not params or not params.get("do_remote_prefill") or "remote_num_tokens" not in params:
            return super().get_num_new_matched_tokens(request, num_computed_tokens)
        available = min(params["remote_num_tokens"], self._get_remote_prefill_token_count(request.num_prompt_tokens))
        missing = available - num_computed_tokens
        return (missing, True) if missing > 0 else (0, False)


class NixlConnector(NixlPullConnector):
    """The connector of a lane; named as vLLM's own because vLLM decides some settings by the name."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        if current_platform.is_cpu():
            with _quiet_agent(), _affinity_kept():
                super().__init__(vllm_config, role, kv_cache_config)
        else:
            super().__init__(vllm_config, role, kv_cache_config)
        if role == KVConnectorRole.SCHEDULER:
            self.connector_scheduler = LaneTransferScheduler(vllm_config, self.engine_id, kv_cache_config)


@contextmanager
def _quiet_agent() -> Iterator[None]:
    """Build the NIXL agent without its progress thread, which spins: on a one-core lane it takes half of the core.

    Transfers on one host progress without it, and the engine polls them between steps.
    """
    config = base_worker.nixl_agent_config
    base_worker.nixl_agent_config = config and partial(
        config, enable_prog_thread=False, sync_mode=nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT
    )
    try:
        yield
    finally:
        base_worker.nixl_agent_config = config


@contextmanager
def _affinity_kept() -> Iterator[None]:
    """Undo vLLM's move of the computing thread to the last core of each NUMA node, where every lane would then meet."""
    cores = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
