"""vLLM's executor for a CPU lane: model and scheduler in one process.

vLLM forces its multiprocess executor on CPU, whose scheduler process then spins on shared memory while the worker
computes: a one-core lane takes two cores. An executor named by its path is left alone, so this one runs the worker in
the engine's own process; thread binding is done by the environment (`environment.of_lane`).
"""

from vllm.v1.executor.uniproc_executor import UniProcExecutor


class LaneExecutor(UniProcExecutor):
    """`UniProcExecutor` under a name that vLLM's CPU platform does not override."""
