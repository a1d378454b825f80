"""How far a contest is, and the time left."""

from io import StringIO

import pytest
from rich.console import Console

from streamserve.bench.contest.progress import ContestProgress


@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_left_follows_the_pace_so_far(terminal: bool) -> None:
    now_s = 100.0
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, color_system=None)
    with ContestProgress(console, lambda: now_s) as progress:
        progress.expect(3, 360.0)
        now_s += 240.0
        progress.done("a run", 120.0)
        progress.note("a note")
    text = out.getvalue()
    assert "3 runs, about 6 min and what starts take" in text
    assert "1/3, 8.0 min left" in text
    assert "a run" in text and "a note" in text


def test_a_contest_with_nothing_left_to_do_is_done() -> None:
    out = StringIO()
    with ContestProgress(Console(file=out, width=200)) as progress:
        progress.expect(0, 0.0)
    assert "0 runs" in out.getvalue()
