"""How far a contest is, and how long the rest will take: a bar on a terminal, a line per run elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


class ContestProgress:
    """Counts work in seconds as expected beforehand, and corrects them by how long it took so far.

    A context manager, so that a contest that fails leaves the terminal as it was.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bar = Progress(
            BarColumn(), TextColumn("{task.description}"), console=console, disable=not console.is_terminal
        )
        self._task: TaskID | None = None
        self._begun_s = clock()
        self._runs = self._done = 0
        self._work_s = self._done_s = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, runs: int, work_s: float) -> None:
        """So many runs are to come, which should take so long."""
        self._runs, self._work_s = runs, work_s
        self._begun_s = self._clock()
        self._task = self._bar.add_task(self._left(), total=work_s)
        self.note(f"{runs} runs, about {work_s / 60:.0f} min and what starts take")

    def done(self, text: str, work_s: float) -> None:
        """A run is done that should have taken so long."""
        self._done += 1
        self._done_s += work_s
        left = self._left()
        if self._task is not None:
            self._bar.update(self._task, advance=work_s, description=left)
        self.note(text if self._console.is_terminal else f"[{left}] {text}")

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _left(self) -> str:
        took_s = self._clock() - self._begun_s
        pace = took_s / self._done_s if self._done_s else 1.0
        return f"{self._done}/{self._runs}, {pace * (self._work_s - self._done_s) / 60:.1f} min left"
