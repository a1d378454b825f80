"""What the terminal shows while a server starts."""

import json
import logging
import shlex
from io import StringIO

import pytest
from rich.console import Console

from streamserve.console import ConsoleStartup, Stage, error_line, log_lines, progress_table, ready_lines
from streamserve.errors import LaneStartError
from streamserve.types import LaneId

A, B, FRONT = LaneId("lane-0"), LaneId("lane-1"), LaneId("front")


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def plain() -> Console:
    return Console(file=StringIO(), width=60)


def written(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_change_is_one_line() -> None:
    console, clock = plain(), Clock()
    with ConsoleStartup(console, clock=clock) as startup:
        startup.begin("tiny", [A, B])
        clock.now_s += 3.14
        startup.stage(A, "loading weights")
        startup.stage(A, "loading weights")
        startup.stage(FRONT, "building the API")
    assert written(console).splitlines() == [
        "Starting tiny on 2 lanes",
        "lane-0  loading weights  3.1 s",
        "front  building the API  3.1 s",
    ]


def test_a_lane_that_comes_back_is_timed_from_its_own_restart() -> None:
    console, clock = plain(), Clock()
    startup = ConsoleStartup(console, clock=clock)
    startup.begin("tiny", [A])
    clock.now_s += 5
    startup.stage(A, "ready")
    clock.now_s += 1000
    startup.stage(A, "importing vLLM")
    clock.now_s += 2
    startup.stage(A, "ready")
    assert written(console).splitlines()[1:] == [
        "lane-0  ready  5.0 s",
        "lane-0  importing vLLM  0.0 s",
        "lane-0  ready  2.0 s",
    ]


def test_the_table_counts_on_for_lanes_that_load_and_stops_for_those_ready() -> None:
    console = Console(file=StringIO(), record=True, width=60)
    console.print(progress_table({A: Stage("ready", 10, 14.5), B: Stage("loading weights", 10, 12)}, now_s=30))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert rows == [["lane-0", "ready", "4.5", "s"], ["lane-1", "loading", "weights", "20.0", "s"]]


def test_on_a_terminal_the_lanes_are_a_live_table_and_the_block_follows() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=200, height=40)
    with ConsoleStartup(console, clock=Clock()) as startup:
        startup.begin("tiny", [A])
        startup.stage(A, "ready")
        startup.stage(FRONT, "listening")
        startup.ready("http://127.0.0.1:8000", "tiny", [A], [(A, A)])
    shown = written(console)
    assert shown.index("listening") < shown.index("Ready after 0.0 s")
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is hidden once and shown again"


def test_a_failed_start_gives_the_terminal_back() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=60)

    def fail() -> None:
        with ConsoleStartup(console, clock=Clock()) as startup:
            startup.begin("tiny", [A])
            raise LaneStartError("lane-0 did not start")

    with pytest.raises(LaneStartError):
        fail()
    assert "\x1b[?25h" in written(console)


def test_the_curl_line_is_one_shell_command_with_the_model_and_the_url() -> None:
    lines = ready_lines("http://127.0.0.1:8000/", "it's a model", [A, B], [(A, B)], 12.34)
    curl = shlex.split(next(line for line in lines if "curl" in line))
    assert curl[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
    assert json.loads(curl[curl.index("-d") + 1])["model"] == "it's a model"
    assert "Authorization" not in " ".join(curl)


def test_the_block_names_lanes_pairs_and_time() -> None:
    text = "\n".join(ready_lines("http://127.0.0.1:8000", "tiny", [A, B], [(A, B), (B, B)], 12.34))
    assert "Ready after 12.3 s: http://127.0.0.1:8000" in text
    assert "lanes  lane-0, lane-1" in text
    assert "lane-0 -> lane-1, lane-1 alone" in text
    assert "  streamserve chat\n" in text


def test_the_block_gives_what_another_address_and_a_key_need() -> None:
    text = "\n".join(ready_lines("http://127.0.0.1:9000", "tiny", [A], [(A, A)], 1, needs_key=True))
    assert "streamserve chat --url http://127.0.0.1:9000" in text
    assert '-H "Authorization: Bearer $STREAMSERVE_API_KEY"' in text


def test_long_lines_are_not_broken_so_that_they_can_be_pasted() -> None:
    console = plain()
    ConsoleStartup(console, clock=Clock()).ready("http://127.0.0.1:8000", "tiny", [A], [(A, A)])
    assert any(line.lstrip().startswith("curl") and line.endswith("]}'") for line in written(console).splitlines())


def test_stopping_is_said_and_ends_the_live_table() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=60)
    startup = ConsoleStartup(console, clock=Clock())
    startup.begin("tiny", [A])
    startup.stopping()
    shown = written(console)
    assert shown.index("\x1b[?25h") < shown.index("Stopping")


def test_an_error_is_one_line() -> None:
    assert error_line(LaneStartError("a\n  b")).plain == "error: a b"


def test_log_records_of_the_package_are_single_lines() -> None:
    console = plain()
    logger = logging.getLogger("streamserve.somewhere")
    with log_lines(console):
        logger.warning(
            "lane-0 [bold]lost[/bold]:\n%s", "a reason that is longer than the sixty columns of this console"
        )
        logger.debug("unseen")
    logger.warning("after the block")
    (line,) = written(console).splitlines()
    assert line.endswith(
        "  warning  lane-0 [bold]lost[/bold]: a reason that is longer than the sixty columns of this console"
    )


def test_a_record_with_a_traceback_keeps_it() -> None:
    console = plain()
    with log_lines(console):
        try:
            raise ValueError("the cause")
        except ValueError:
            logging.getLogger("streamserve").exception("it broke")
    first, *rest = written(console).splitlines()
    assert first.endswith("it broke")
    assert rest[-1] == "ValueError: the cause"


def test_the_package_logger_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("streamserve")
    monkeypatch.setattr(logger, "propagate", True)
    before = (logger.level, logger.propagate, list(logger.handlers))
    with log_lines(plain()):
        assert (logger.level, logger.propagate) == (logging.INFO, False)
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
