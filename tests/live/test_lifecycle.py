"""Starting and stopping: errors in one line, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.live.server import launch, running, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `streamserve serve` to its end, which these arguments bring at once."""
    command = [sys.executable, "-m", "streamserve", "serve", *arguments]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "300"},
    )


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those still running a moment later; one that ended and was not yet reaped by its new parent counts as ended."""
    _, left = psutil.wait_procs(processes, timeout=3)
    return [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["/no/such/folder", "--config", "unified"], 1, "/no/such/folder"),
        (["--config", "cpu-pair", "--set", "engine.max_runing=4"], 2, "did you mean 'max_running'"),
        (["--config", "nonsense"], 2, "cpu-pair"),
        (["--config", "cpu-pair", "--set", "engine.max_running=many"], 2, "engine.max_running"),
        (["--config", "cpu-pair", "--router", "dice"], 2, "round_robin"),
        (["--config", "cpu-pair", "--set", "lanes.0.cores=999"], 1, "cores"),
        (["--config", "unified", "--set", "engine.kv_cache_gib=4000"], 1, "kv_cache_gib"),
        (["--config", "unified", "--set", "server.tool_call_parser=telepathy"], 2, "telepathy"),
    ],
)
def test_a_start_that_cannot_work_says_so_in_one_line(arguments: list[str], status: int, expected: str) -> None:
    ended = serve("--port", "0", *arguments)
    error = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == status, ended.stdout + ended.stderr
    assert len(error) == 1 and expected in error[0]
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_port_in_use_is_told_before_anything_is_loaded(server: object) -> None:
    port = httpx.URL(server.url).port  # type: ignore[attr-defined]
    started_s = time.monotonic()
    ended = serve("--config", "cpu-pair", "--port", str(port))
    assert ended.returncode == 1 and f"port {port}" in ended.stderr and "--port" in ended.stderr
    assert time.monotonic() - started_s < 5


def test_an_engine_that_dies_while_starting_is_one_line_and_no_orphan(tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    ended = serve(str(broken), "--config", "unified", "--port", "0")
    error = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 1 and len(error) == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["importing vLLM", "loading weights"])
def test_a_signal_during_the_start_stops_everything_within_ten_seconds(
    tmp_path: Path, number: signal.Signals, stage: str
) -> None:
    log = tmp_path / "log.txt"
    process, _ = launch(log, "--config", "cpu-pair")
    wait_until(lambda: stage in log.read_text() or process.poll() is not None, 120, log.read_text)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait(timeout=10)
    assert not alive(below)
    assert "Traceback" not in log.read_text(), log.read_text()


def test_no_lane_outlives_a_front_that_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with running(log, "--config", "unified", "--api-key", "secret") as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        listed = httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer secret"})
        assert listed.json()["data"][0]["id"] == "SmolLM2-135M-Instruct"
        asked = {"prompt": "Hello", "max_tokens": 1}
        assert httpx.post(f"{server.url}/invocations", json=asked).status_code == 401
        key = {"Authorization": "Bearer secret"}
        served = httpx.post(f"{server.url}/invocations", json=asked, headers=key, timeout=60)
        assert served.status_code == 200, served.text
        below = server.processes()[1:]
        server.process.kill()
        assert not alive(below)
