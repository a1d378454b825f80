"""vLLM's own Prometheus series (`vllm:*`), one `engine` label per lane."""

import asyncio
import time

from vllm.config import VllmConfig
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.metrics.loggers import StatLoggerManager
from vllm.v1.metrics.stats import IterationStats

FLUSH_S = 0.1
"""How long per-request figures are gathered before they reach the series: one update per lane, not one per token."""


class EngineMetrics:
    """Feeds what engines and requests report into vLLM's Prometheus logger."""

    def __init__(self, config: VllmConfig, lanes: int) -> None:
        self._loggers = StatLoggerManager(config, engine_idxs=list(range(lanes)), enable_default_loggers=False)
        self._pending: dict[int, IterationStats] = {}

    def engine_step(self, lane: int, outputs: EngineCoreOutputs) -> None:
        """Record the scheduler's side of one step of the lane with this index."""
        if outputs.scheduler_stats is not None:
            self._loggers.record(outputs.scheduler_stats, None, engine_idx=lane)

    def iteration(self, lane: int) -> IterationStats:
        """Where vLLM's output processor is to note latencies and token counts of a request on this lane, now."""
        if not self._pending:
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
        stats = self._pending.get(lane)
        if stats is None:
            stats = self._pending[lane] = IterationStats()
        # Latencies are taken against this stamp, the wall clock's as vLLM's arrival times are.
        stats.iteration_timestamp = time.time()  # noqa: TID251
        return stats

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        for lane, stats in pending.items():
            self._loggers.record(None, stats, engine_idx=lane)
