"""The decision log: one line of JSON per ended request, what was decided and predicted, then what came of it."""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from streamserve.errors import SetupError
from streamserve.scheduler import explain
from streamserve.types import Result

logger = logging.getLogger(__name__)

FLUSH_S = 1.0
MOST_LINES = 100_000
"""Lines that may wait for a disk that does not answer; beyond them the log is given up."""


class DecisionLog:
    """Appends results to a file as JSONL, a second's worth at a time and beside the event loop.

    Raises `SetupError` where the file cannot be written. A disk that fails later is told once and ends the log; serving
    goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._failed = False
        try:
            # Unbuffered, so that nothing is left to fail when it is closed.
            self._file: BinaryIO = path.open("ab", buffering=0)
        except OSError as error:
            raise SetupError(
                f"cannot write the decision log {path}: {error.strerror}; name another file with --decision-log"
            ) from error

    def write(self, result: Result) -> None:
        """Note a result; it reaches the file within about a second."""
        if self._failed or self._file.closed:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **explain.result(result)}
        self._lines.append(msgspec.json.encode(line) + b"\n")
        if len(self._lines) > MOST_LINES:
            self._give_up(f"{MOST_LINES} lines wait for the disk")
        elif self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    async def aclose(self) -> None:
        """Write what is left and close the file; idempotent."""
        while self._lines or self._writing is not None:
            if self._writing is None:
                self._flush()
            assert self._writing is not None
            await asyncio.wait((self._writing,))
            # The future's own callback has to run before there is another to wait for.
            await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()
        self._file.close()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._append, b"".join(lines))
        self._writing.add_done_callback(self._written)

    def _append(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        if writing.cancelled():
            return
        if error := writing.exception():
            self._give_up(str(error))
        elif self._lines:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _give_up(self, why: str) -> None:
        self._failed = True
        self._lines.clear()
        logger.error("the decision log %s ends here (%s); free the disk and restart to log again", self._path, why)
