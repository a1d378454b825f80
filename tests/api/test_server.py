"""Who is told of results: the decision log where one is asked for."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from streamserve.api import server
from streamserve.errors import SetupError
from streamserve.types import Finish, Result
from tests.fakes import pair

RESULT = Result("r", pair("a", "b"), 1, 1, 0.0, 1.0, Finish.STOP)


async def test_the_decision_log_is_whole_once_everything_is_down(tmp_path: Path) -> None:
    async with AsyncExitStack() as down:
        on_result = server._decision_log(tmp_path / "log.jsonl", down)
        down.callback(on_result, RESULT)
    assert (tmp_path / "log.jsonl").read_text().count('"request_id":"r"') == 1


async def test_without_a_file_nothing_is_written() -> None:
    async with AsyncExitStack() as down:
        server._decision_log(None, down)(RESULT)


async def test_a_decision_log_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    async with AsyncExitStack() as down:
        with pytest.raises(SetupError, match="--decision-log"):
            server._decision_log(tmp_path, down)
