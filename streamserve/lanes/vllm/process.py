"""The process of one lane: environment, cores, log, then vLLM's engine core until it is told to stop.

Importing this module is cheap: the heavy imports happen in `run`, or before it in the process that lanes are forked
from (`preload`).
"""

import os
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from streamserve.errors import one_line
from streamserve.lanes.vllm.lifeline import die_with_parent
from streamserve.types import LaneId


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """All that a lane's process needs to know; plain data, it is pickled."""

    lane: LaneId
    arguments: dict[str, Any]
    environment: dict[str, str]
    cores: tuple[int, ...]
    handshake_address: str
    log: Path


@dataclass(frozen=True, slots=True)
class Report:
    """A line from a starting lane to the front."""

    kind: Literal["stage", "failed"]
    text: str


def run(spec: EngineSpec, reports: Connection) -> None:
    """The process's main function: become the engine of a lane and serve until SIGTERM."""
    os.environ.update(spec.environment)
    # A session of its own: Ctrl-C in the terminal reaches the front only, and the lane can be killed with its children.
    os.setsid()
    die_with_parent()
    _log_to(spec.log)
    if spec.cores:
        os.sched_setaffinity(0, spec.cores)
    try:
        _serve(spec, reports)
    except Exception as error:
        reports.send(Report("failed", one_line(error)))
        raise


def _serve(spec: EngineSpec, reports: Connection) -> None:
    reports.send(Report("stage", "importing vLLM"))
    from streamserve.lanes.vllm import arguments, version

    version.check()
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.executor import Executor

    from streamserve.lanes.vllm.nucleus import sort_values_only
    from streamserve.lanes.vllm.rebinding import spare_llvmlite
    from streamserve.lanes.vllm.sampling import keep_min_p_and_logit_bias
    from streamserve.lanes.vllm.verification import correct_verification

    keep_min_p_and_logit_bias()
    correct_verification()
    sort_values_only()
    spare_llvmlite()
    reports.send(Report("stage", "reading the model's configuration"))
    config = arguments.vllm_config(spec.arguments)
    reports.send(Report("stage", "loading weights"))
    EngineCoreProc.run_engine_core(
        vllm_config=config,
        local_client=True,
        handshake_address=spec.handshake_address,
        executor_class=Executor.get_class(config),
        log_stats=True,
    )


def _log_to(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
