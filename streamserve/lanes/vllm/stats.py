"""What an engine reports after each step, as `LaneSignals`."""

from vllm.v1.engine import EngineCoreOutputs

from streamserve.signals import LaneSignals
from streamserve.types import LaneId, LaneState


class LaneMeter:
    """Keeps the last report of a lane's engine and the totals since the lane's first start."""

    def __init__(self, lane: LaneId) -> None:
        self._lane = lane
        self._running = 0
        self._waiting = 0
        self._kv_used = 0.0
        self._prefix_queries = 0
        self._prefix_hits = 0
        self._steps = 0
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._at_s = 0.0

    def observe(self, outputs: EngineCoreOutputs) -> None:
        """Take in the report of one engine step."""
        self._at_s = outputs.timestamp
        for output in outputs.outputs:
            self._output_tokens += len(output.new_token_ids)
            if output.prefill_stats is not None:
                self._prompt_tokens += output.prefill_stats.num_computed_tokens
        stats = outputs.scheduler_stats
        if stats is None:
            return
        self._steps += 1
        self._running = stats.num_running_reqs
        self._waiting = stats.num_waiting_reqs + stats.num_skipped_waiting_reqs
        self._kv_used = stats.kv_cache_usage
        self._prefix_queries += stats.prefix_cache_stats.queries
        self._prefix_hits += stats.prefix_cache_stats.hits

    def forget_load(self) -> None:
        """The engine is gone, and what ran on it with it."""
        self._running = self._waiting = 0
        self._kv_used = 0.0

    def snapshot(self, state: LaneState, restarts: int, pid: int | None, error: str | None) -> LaneSignals:
        return LaneSignals(
            lane=self._lane,
            state=state,
            at_s=self._at_s,
            running=self._running,
            waiting=self._waiting,
            kv_used=self._kv_used,
            prefix_hit=self._prefix_hits / self._prefix_queries if self._prefix_queries else 0.0,
            steps=self._steps,
            prompt_tokens_total=self._prompt_tokens,
            output_tokens_total=self._output_tokens,
            restarts=restarts,
            pid=pid,
            error=error,
        )
