"""vLLM's executor for a CPU lane: model and scheduler in one process.

vLLM forces its multiprocess executor on CPU, whose scheduler process then spins on shared memory while the worker
computes: a one-core lane takes two cores. An executor named by its path is left alone, so this one runs the worker in
the engine's own process; thread binding is done by the environment (`environment.of_lane`).
"""

import os

import torch
from vllm.v1.executor.uniproc_executor import UniProcExecutor


class LaneExecutor(UniProcExecutor):
    """`UniProcExecutor` under a name that vLLM's CPU platform does not override."""

    def _init_executor(self) -> None:
        # The process this one was forked from has chosen a thread for every core of the machine when it imported
        # torch, and the choice is inherited; on a lane's fewer cores the surplus threads would take turns.
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        super()._init_executor()
