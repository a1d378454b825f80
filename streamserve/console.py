"""The terminal while a server starts: each lane's stage, one ready block, and log records as lines between them."""

import json
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamserve.types import LaneId

DEFAULT_URL = "http://127.0.0.1:8000"
_READY = "ready"
_LEVEL_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


@dataclass(frozen=True, slots=True)
class Stage:
    """Where one lane is in its start; instants are seconds of the clock given to `ConsoleStartup`."""

    text: str
    started_s: float
    changed_s: float

    @property
    def done(self) -> bool:
        return self.text == _READY

    def seconds(self, now_s: float) -> float:
        """How long the start has taken, or took."""
        return (self.changed_s if self.done else now_s) - self.started_s


class ConsoleStartup:
    """Shows a server's start: a live table on a terminal, a line per change elsewhere, then one ready block.

    A context manager, so that a start that fails leaves the terminal as it was.
    """

    def __init__(
        self, console: Console, *, needs_key: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._needs_key = needs_key
        self._clock = clock
        self._began_s = clock()
        self._stages: dict[LaneId, Stage] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._freeze()

    def begin(self, model: str, lanes: Sequence[LaneId]) -> None:
        self._began_s = self._clock()
        self._stages = {lane: Stage("waiting", self._began_s, self._began_s) for lane in lanes}
        self._line(f"Starting {model} on {len(lanes)} lane{'' if len(lanes) == 1 else 's'}")
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=8)
            self._live.start()

    def stage(self, lane: LaneId, text: str) -> None:
        now_s = self._clock()
        before = self._stages.get(lane)
        if before and before.text == text:
            return
        restarts = before is not None and before.done
        started_s = now_s if restarts else before.started_s if before else self._began_s
        self._stages[lane] = stage = Stage(text, started_s, now_s)
        if self._live is None:
            self._line(f"{lane}  {text}  {stage.seconds(now_s):.1f} s")

    def ready(self, url: str, model: str, lanes: Sequence[LaneId], pairs: Sequence[tuple[LaneId, LaneId]]) -> None:
        self._freeze()
        took_s = self._clock() - self._began_s
        for line in ready_lines(url, model, lanes, pairs, took_s, needs_key=self._needs_key):
            self._line(line, "bold green" if line.startswith("Ready") else "")

    def stopping(self) -> None:
        self._freeze()
        self._line("Stopping: requests in flight end, then the lanes")

    def _freeze(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, text: str, style: str = "") -> None:
        # soft_wrap keeps a line one line, so that a pasted command stays whole.
        self._console.print(Text(text, style), soft_wrap=True)

    def _table(self) -> Table:
        # The live display's thread reads while the server's adds lanes: it gets a copy.
        return progress_table(dict(self._stages), self._clock())


def progress_table(stages: Mapping[LaneId, Stage], now_s: float) -> Table:
    """One row per lane: its name, its stage, and the seconds its start has taken."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column("lane", style="bold")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for lane, stage in stages.items():
        table.add_row(lane, Text(stage.text, "green" if stage.done else "yellow"), f"{stage.seconds(now_s):.1f} s")
    return table


def ready_lines(
    url: str,
    model: str,
    lanes: Sequence[LaneId],
    pairs: Sequence[tuple[LaneId, LaneId]],
    took_s: float,
    *,
    needs_key: bool = False,
) -> list[str]:
    """The ready block: where the server is, what it serves on which lanes, and two commands to try it."""
    url = url.rstrip("/")
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
    headers = ["-H 'Content-Type: application/json'"]
    if needs_key:
        headers.append('-H "Authorization: Bearer $STREAMSERVE_API_KEY"')
    shown = [f"{prefill} -> {decode}" if prefill != decode else f"{prefill} alone" for prefill, decode in pairs]
    chat = "streamserve chat" if url == DEFAULT_URL else f"streamserve chat --url {shlex.quote(url)}"
    return [
        "",
        f"Ready after {took_s:.1f} s: {url}",
        f"  model  {model}",
        f"  lanes  {', '.join(lanes)}",
        f"  pairs  {', '.join(shown)}  (prefill -> decode)",
        "",
        "Try it:",
        f"  curl {shlex.quote(url + '/v1/chat/completions')} {' '.join(headers)} -d {shlex.quote(json.dumps(body))}",
        f"  {chat}",
        "",
    ]


def error_line(error: BaseException) -> Text:
    """An error as the command line shows it."""
    return Text(f"error: {' '.join(str(error).split())}", "red")


class LogLines(logging.Handler):
    """Prints each record as one line above a live display; a record's traceback follows it."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._traceback = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        message = " ".join(record.getMessage().split())
        line = Text(f"{clock}  {record.levelname.lower()}  {message}", _LEVEL_STYLES.get(record.levelno, "dim"))
        if record.exc_info:
            line.append("\n" + self._traceback.formatException(record.exc_info))
        self._console.print(line, soft_wrap=True)


@contextmanager
def log_lines(console: Console, name: str = "streamserve") -> Iterator[None]:
    """Show the log of the package `name` on the console, and nowhere else, until the block ends."""
    logger = logging.getLogger(name)
    level, propagate, lines = logger.level, logger.propagate, LogLines(console)
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
        logger.propagate = propagate
