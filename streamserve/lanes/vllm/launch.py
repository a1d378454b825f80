"""Starting, watching and stopping the process of a lane's engine.

CPU lanes are forked from one process that has vLLM imported already (multiprocessing's forkserver): importing takes
some 8 s of a core, more than all the rest of a small model's start, and is so paid once however many lanes there are.
GPU lanes are spawned afresh, since a CUDA runtime does not survive a fork.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from streamserve.errors import LaneStartError
from streamserve.lanes.vllm import environment, process
from streamserve.lanes.vllm.lifeline import IMPORT_LOG, PARENT_VARIABLE
from streamserve.lanes.vllm.process import EngineSpec, Report

T = TypeVar("T")

TERM_GRACE_S = 3.0
"""How long an engine may take to leave after SIGTERM before its process group is killed."""


class Launcher:
    """Starts engine processes for one device kind."""

    def __init__(self, device: str, log_folder: Path) -> None:
        self.log_folder = log_folder
        self._variables = environment.shared(device) | {
            IMPORT_LOG: str(log_folder / "import.log"),
            PARENT_VARIABLE: str(os.getpid()),
            # A killed engine leaves its semaphores to multiprocessing's tracker, which removes them and complains.
            "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",
        }
        self._forked = device == "cpu"
        self._context: BaseContext = get_context("forkserver" if self._forked else "spawn")
        if self._forked:
            self._context.set_forkserver_preload(["streamserve.lanes.vllm.preload"])

    def prepare(self) -> None:
        """Start importing vLLM in the background; returns at once and does nothing while that process lives."""
        # Somebody may have tidied up since, and a lane that cannot open its log cannot start.
        self.log_folder.mkdir(parents=True, exist_ok=True)
        if self._forked:
            with environment.exported(self._variables):
                forkserver.ensure_running()

    async def launch(self, spec: EngineSpec, on_stage: Callable[[str], None]) -> "EngineProcess":
        """Start the process; returns when it exists, long before its engine is ready."""
        self.prepare()
        reader, writer = self._context.Pipe(duplex=False)
        child = self._context.Process(target=process.run, args=(spec, writer), name=f"streamserve-{spec.lane}")  # type: ignore[attr-defined]
        if self._forked:
            # Blocks until the importing is done, so not on the loop; the fork itself happens in the server process.
            await in_thread(child.start)
        else:
            # On this thread, which lives as long as the front: the kernel ties the child's life to the thread's.
            with environment.exported(self._variables):
                child.start()
        writer.close()
        return EngineProcess(spec, child, reader, on_stage)


class EngineProcess:
    """A running engine process: its reports, its end, and how to end it."""

    def __init__(
        self, spec: EngineSpec, child: BaseProcess, reports: Connection, on_stage: Callable[[str], None]
    ) -> None:
        self._spec = spec
        self._child = child
        assert child.pid is not None
        self.pid = child.pid
        self._reports = reports
        self._on_stage = on_stage
        self._failure: str | None = None
        self._loop = asyncio.get_running_loop()
        self._exited = self._loop.create_future()
        self._loop.add_reader(reports.fileno(), self._read_report)
        self._loop.add_reader(child.sentinel, self._note_exit)

    async def exited(self) -> str:
        """Wait for the process to end; why, in one line."""
        return await asyncio.shield(self._exited)

    def start_error(self, reason: str) -> LaneStartError:
        """What to raise when the process ended before its engine was ready."""
        return LaneStartError(f"{self._spec.lane} did not start: {reason} (its log: {self._spec.log})")

    async def stop(self) -> None:
        """End the process and everything it started; SIGTERM first, SIGKILL after a grace period."""
        if not self._exited.done():
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(TERM_GRACE_S):
                    await self.exited()
            except TimeoutError:
                pass
        await self.kill()

    async def kill(self) -> None:
        """End the process group at once: the engine may be gone while workers it started are not."""
        self._signal(signal.SIGKILL)
        await self.exited()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            if not self._exited.done():
                # Not yet a session of its own: it was forked a moment ago.
                self._child.kill()

    def _read_report(self) -> None:
        try:
            report: Report = self._reports.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._reports.fileno())
            self._reports.close()
            return
        if report.kind == "stage":
            self._on_stage(report.text)
        else:
            self._failure = report.text

    def _note_exit(self) -> None:
        self._loop.remove_reader(self._child.sentinel)
        while not self._reports.closed and self._reports.poll():
            self._read_report()
        if not self._reports.closed:
            self._loop.remove_reader(self._reports.fileno())
            self._reports.close()
        self._child.join()
        self._exited.set_result(self._failure or _describe_exit(self._child.exitcode))
        self._child.close()


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with status {code}"


async def in_thread(function: Callable[[], T]) -> T:
    """Run a blocking call on a daemon thread, so that an interrupted start need not wait for it to end."""
    result: Future[T] = Future()

    def call() -> None:
        # Whoever waited may have gone before this began, or go at any moment: from here on it cannot be cancelled.
        if not result.set_running_or_notify_cancel():
            return
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return await asyncio.wrap_future(result)
