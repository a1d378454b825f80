"""Processes of a system: small servers instead of vLLM."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from streamserve.bench.contest import server
from streamserve.bench.contest.process import Process
from streamserve.bench.contest.systems import System
from streamserve.errors import SetupError
from streamserve.lanes.vllm.environment import free_port
from tests.bench.contest import stand_in

SERVER = Path(stand_in.__file__)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "POLL_S", 0.02)


def serving_process(name: str = "one", *words: str, stage: int = 0, cores: tuple[int, ...] = ()) -> Process:
    port = free_port()
    argv = (sys.executable, str(SERVER), str(port), *words)
    return Process(name, argv, port, f"http://127.0.0.1:{port}/health", cores, {"MARK": name}, stage)


def other_process(code: str, name: str = "one") -> Process:
    port = free_port()
    return Process(name, (sys.executable, "-c", code, str(port)), port, f"http://127.0.0.1:{port}/health")


def system(*processes: Process) -> System:
    return System("vllm-x:3", "a title", f"http://127.0.0.1:{processes[-1].port}", "tokenizer", processes)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_processes_come_up_in_sessions_of_their_own_and_leave_with_the_block(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    plan = system(serving_process("engine", cores=(core,)), serving_process("router", stage=1))
    async with server.up(plan, tmp_path) as serving:
        assert (serving.url, serving.model, serving.lanes_url) == (plan.url, "stand-in", None)
        assert serving.start_s > 0
        engine, router = serving.pids
        assert [os.getsid(pid) for pid in serving.pids] == [engine, router]
        assert os.sched_getaffinity(engine) == {core}
        assert os.sched_getaffinity(router) == os.sched_getaffinity(0)
        assert psutil.Process(engine).environ()["MARK"] == "engine"
        # The router is started by when the engine answers.
        assert psutil.Process(router).create_time() > psutil.Process(engine).create_time()
        assert server.cpu_s(serving) > 0
        assert not serving.stopped.done()
    assert gone(engine) and gone(router)
    assert serving.stopped.cancelled()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vllm-x-3_engine.log", "vllm-x-3_router.log"]


async def test_a_server_that_asks_for_a_key_is_not_started_by_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSERVE_API_KEY", "secret")
    async with server.up(system(serving_process()), tmp_path) as serving:
        assert "STREAMSERVE_API_KEY" not in psutil.Process(serving.pids[0]).environ()


async def test_a_server_with_lanes_says_where_they_are(tmp_path: Path) -> None:
    async with server.up(system(serving_process("one", "lanes")), tmp_path) as serving:
        assert serving.lanes_url == f"{serving.url}/streamserve/lanes"


async def test_a_start_that_fails_shows_the_log_and_the_command_and_ends_the_others(tmp_path: Path) -> None:
    healthy = serving_process("engine")
    broken = other_process("import sys; print('no such model'); sys.exit(3)", "router")
    with pytest.raises(SetupError) as caught:
        async with server.up(system(healthy, broken), tmp_path):
            pass
    message = str(caught.value)
    assert "vllm-x:3 did not start: router ended with 3" in message
    assert "  no such model" in message
    assert f"try it by hand:  {sys.executable} -c" in message
    with pytest.raises(httpx.ConnectError):
        httpx.get(healthy.ready)


async def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    sleeper = other_process("import time; time.sleep(600)")
    with pytest.raises(SetupError, match=r"one does not answer http://127.0.0.1:\d+/health after 0.3 s"):
        async with server.up(system(sleeper), tmp_path, start_limit_s=0.3):
            pass
    assert not [child for child in psutil.Process().children() if str(sleeper.port) in child.cmdline()]


async def test_a_process_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    async with server.up(system(serving_process()), tmp_path) as serving:
        psutil.Process(serving.pids[0]).kill()
        async with asyncio.timeout(20):
            assert (await serving.stopped).startswith("one was ended by SIGKILL; the end of")


STUBBORN = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
sys.argv[0] = {str(SERVER)!r}
exec(open(sys.argv[0]).read())
"""


async def test_what_does_not_leave_is_killed_with_all_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STOP_S", 0.2)
    async with server.up(system(other_process(STUBBORN)), tmp_path) as serving:
        below = int((tmp_path / "vllm-x-3_one.log").read_text())
        assert psutil.pid_exists(below)
    assert gone(serving.pids[0])
    await until(lambda: gone(below))


async def test_an_interrupted_block_ends_its_processes_too(tmp_path: Path) -> None:
    pids: list[int] = []

    async def run() -> None:
        async with server.up(system(serving_process()), tmp_path) as serving:
            pids.extend(serving.pids)
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await until(lambda: bool(pids))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(map(gone, pids))


BENCH = """
import asyncio, sys
from pathlib import Path
from streamserve.bench.contest import server
from tests.bench.contest.test_server import serving_process, system

async def main():
    async with server.up(system(serving_process()), Path(sys.argv[1])) as serving:
        print(serving.pids[0], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_bench_that_is_killed_takes_its_servers_along(tmp_path: Path) -> None:
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BENCH, str(tmp_path)), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert bench.stdout is not None
    pid = int(await bench.stdout.readline())
    assert not gone(pid)
    bench.kill()
    await bench.wait()
    await until(lambda: gone(pid))


async def test_a_server_that_runs_already_is_left_alone(tmp_path: Path) -> None:
    async with server.up(system(serving_process()), tmp_path) as ours:
        theirs = System(ours.url, "theirs", ours.url, "tokenizer")
        async with server.up(theirs, tmp_path) as serving:
            assert (serving.start_s, serving.pids, serving.model) == (0, (), "stand-in")
        assert httpx.get(f"{ours.url}/health").status_code == httpx.codes.OK


async def test_a_url_where_nothing_serves_is_told(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(SetupError, match="names no model"):
        async with server.up(System(url, "theirs", url, "tokenizer"), tmp_path):
            pass
