"""Who is told of results, and where the server listens and logs."""

import socket
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from streamserve.api import server
from streamserve.config import ServerConfig
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


def test_a_port_in_use_asks_for_another_port() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as owner,
        pytest.raises(SetupError, match="choose another with --port"),
    ):
        server._listen(ServerConfig(port=owner.getsockname()[1]))


def test_an_address_that_is_not_of_this_machine_asks_for_another_host() -> None:
    with pytest.raises(SetupError, match="choose an address of this machine with --host"):
        server._listen(ServerConfig(host="192.0.2.1", port=0))


def test_logs_that_cannot_be_written_end_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMSERVE_CACHE", str(tmp_path / "file"))
    with pytest.raises(SetupError, match="set STREAMSERVE_CACHE"):
        server._log_folder()


def test_old_logs_go_but_for_those_of_servers_that_still_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMSERVE_CACHE", str(tmp_path))
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == 7)
    names = [f"20260101-0000{second:02d}-{second}" for second in range(14)]
    for name in names:
        (tmp_path / "logs" / name).mkdir(parents=True)
    folder = server._log_folder()
    kept = names[7:8] + names[-server.KEPT_LOG_FOLDERS + 1 :]
    assert sorted(each.name for each in (tmp_path / "logs").iterdir()) == sorted({*kept, folder.name})
