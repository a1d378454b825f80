"""The decision log: every result is one line, in order, and no disk stops serving."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from streamserve.errors import SetupError
from streamserve.scheduler import decision_log
from streamserve.scheduler.decision_log import DecisionLog
from streamserve.types import Finish, Result
from tests.fakes import pair


def result(n: int) -> Result:
    return Result(f"r{n}", pair("a", "b"), 1, 1, 0.0, 1.0, Finish.STOP)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_result_is_a_line_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"request_id": "old"}\n')
    log = DecisionLog(path)
    for n in range(100):
        log.write(result(n))
    await log.aclose()
    await log.aclose()
    log.write(result(100))
    assert [line["request_id"] for line in lines(path)] == ["old", *(f"r{n}" for n in range(100))]
    last = lines(path)[-1]
    assert (last["router"], last["prefill"], last["finish"]) == ("test", "a", "stop")
    assert datetime.fromisoformat(last["time"]).tzinfo is not None


async def test_lines_reach_the_file_while_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "FLUSH_S", 0.001)
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path)
    async with asyncio.timeout(10):
        for n in range(3):
            log.write(result(n))
            while len(lines(path)) <= n:
                await asyncio.sleep(0.001)
    await log.aclose()
    assert [line["request_id"] for line in lines(path)] == ["r0", "r1", "r2"]


async def test_results_that_come_while_the_disk_is_busy_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_log, "FLUSH_S", 0.0)
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path)
    for n in range(50):
        log.write(result(n))
        await asyncio.sleep(0)
    await log.aclose()
    assert [line["request_id"] for line in lines(path)] == [f"r{n}" for n in range(50)]


@pytest.mark.parametrize("name", [".", "missing/log.jsonl"])
def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetupError, match=r"cannot write the decision log .*; name another file with --decision-log"):
        DecisionLog(tmp_path / name)


async def test_a_disk_that_fails_later_is_told_once_and_ends_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = DecisionLog(Path("/dev/full"))
    for n in range(3):
        log.write(result(n))
    await log.aclose()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "No space left on device" in caplog.text


async def test_a_disk_that_hangs_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decision_log, "MOST_LINES", 10)
    log = DecisionLog(tmp_path / "log.jsonl")
    for n in range(50):
        log.write(result(n))
    await log.aclose()
    assert len(caplog.records) == 1
    assert lines(tmp_path / "log.jsonl") == []
