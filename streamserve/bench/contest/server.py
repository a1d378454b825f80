"""A system's processes: started in sessions of their own, awaited, watched, and ended whatever happens."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from streamserve.bench.contest import leash
from streamserve.bench.contest.process import Process
from streamserve.bench.contest.systems import System
from streamserve.errors import SetupError

POLL_S = 0.25
STOP_S = 20.0
"""How long a process may take to leave after SIGTERM before it and all below it are killed."""
LOG_LINES = 12
KEY_VARIABLES = ("STREAMSERVE_API_KEY", "VLLM_API_KEY")
"""With one of them a server would ask for a key that the load generator does not send."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A system that serves."""

    system: System
    url: str
    """Without `/v1`."""
    model: str
    """The model's name in requests."""
    start_s: float
    """From the first process's start to the first healthy answer; 0 where nothing was started."""
    stopped: asyncio.Future[str]
    """Done with the reason, log tail included, once one of its processes has ended by itself."""
    pids: tuple[int, ...] = ()
    lanes_url: str | None = None
    """Where a StreamServe server tells of its lanes; None for others."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A process that was started."""

    plan: Process
    child: asyncio.subprocess.Process
    log: Path

    def ended(self) -> str:
        """Why it is gone, with the end of its log."""
        code = self.child.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        return f"{self.plan.name} {how}; {self.tail()}"

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"the end of {self.log}:", *(f"  {line[:300]}" for line in lines)])


@asynccontextmanager
async def up(system: System, logs: Path, start_limit_s: float = 300.0) -> AsyncIterator[Serving]:
    """Start every process of a system and wait until it serves; all of them are ended on the way out.

    logs: folder for a log file per process. start_limit_s: for each stage of processes.
    Raises `SetupError`, naming the system, with the last lines of the log, when one ends or is not ready in time, or
    when a server that should run already does not answer.
    """
    begun_s = time.perf_counter()
    stopped: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with AsyncExitStack() as down, httpx.AsyncClient(timeout=5, trust_env=not system.processes) as http:
        running: list[_Running] = []
        children: list[asyncio.subprocess.Process] = []
        down.push_async_callback(_stop_all, children)
        for stage in sorted({process.stage for process in system.processes}):
            begun = [
                await _start(process, logs / _file_name(system, process), children)
                for process in system.processes
                if process.stage == stage
            ]
            running += begun
            await _ready(system, begun, running, http, start_limit_s)
        start_s = time.perf_counter() - begun_s if running else 0.0
        model = await _model(system, http)
        lanes_url = f"{system.url}/streamserve/lanes"
        lanes = lanes_url if await _answers(http, lanes_url) else None
        watchers = [asyncio.create_task(_watch(each, stopped)) for each in running]
        down.push_async_callback(_end_watching, watchers, stopped)
        yield Serving(system, system.url, model, start_s, stopped, tuple(each.child.pid for each in running), lanes)


def cpu_s(serving: Serving) -> float:
    """CPU seconds that its processes and everything now below them have taken so far."""
    total = 0.0
    for pid in serving.pids:
        for process in _family(pid):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def _file_name(system: System, process: Process) -> str:
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in system.name)
    return f"{name}_{process.name}.log"


async def _start(plan: Process, log: Path, children: list[asyncio.subprocess.Process]) -> _Running:
    log.parent.mkdir(parents=True, exist_ok=True)
    cores = ",".join(map(str, plan.cores))
    command = [sys.executable, "-S", "-E", leash.__file__, str(os.getpid()), cores, *plan.argv]
    inherited = {name: value for name, value in os.environ.items() if name not in KEY_VARIABLES}
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=inherited | dict(plan.env),
            start_new_session=True,
        )
    children.append(child)
    return _Running(plan, child, log)


async def _ready(
    system: System, begun: Sequence[_Running], running: Sequence[_Running], http: httpx.AsyncClient, limit_s: float
) -> None:
    """Wait for the processes of a stage. Raises `SetupError`."""
    waiting = list(begun)
    # Looks are counted instead of seconds, so that a machine that stood still for a while costs no start.
    for _ in range(max(1, round(limit_s / POLL_S))):
        for each in running:
            if each.child.returncode is not None:
                raise SetupError(f"{system.name} did not start: {each.ended()}\n{_by_hand(each.plan)}")
        waiting = [each for each in waiting if not await _answers(http, each.plan.ready)]
        if not waiting:
            return
        await asyncio.sleep(POLL_S)
    late = waiting[0]
    raise SetupError(
        f"{system.name} did not start: {late.plan.name} does not answer {late.plan.ready} after {limit_s:g} s; "
        f"{late.tail()}\n{_by_hand(late.plan)}"
    )


def _by_hand(plan: Process) -> str:
    import shlex

    env = " ".join(f"{name}={shlex.quote(value)}" for name, value in plan.env.items())
    return f"leave the system out, or try it by hand: {env} {shlex.join(plan.argv)}"


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def _model(system: System, http: httpx.AsyncClient) -> str:
    """The first model that the server names. Raises `SetupError`."""
    url = f"{system.url}/v1/models"
    try:
        answer = (await http.get(url)).raise_for_status().json()
        return str(answer["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise SetupError(
            f"{system.name}: GET {url} names no model ({type(error).__name__}: {error}): it must be an OpenAI server"
        ) from error


async def _watch(running: _Running, stopped: asyncio.Future[str]) -> None:
    await running.child.wait()
    if not stopped.done():
        stopped.set_result(running.ended())


async def _end_watching(watchers: Sequence[asyncio.Task[None]], stopped: asyncio.Future[str]) -> None:
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    stopped.cancel()


async def _stop_all(children: Sequence[asyncio.subprocess.Process]) -> None:
    await asyncio.gather(*map(_stop, children))


async def _stop(child: asyncio.subprocess.Process) -> None:
    """End a process and everything below it."""
    family = _family(child.pid)
    if child.returncode is None:
        child.terminate()
    # What is below may outlive it for a moment, tidying up.
    await _leave(child, family, STOP_S)
    # Its session, for what it left behind unseen; then what had sessions of their own.
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    await child.wait()


async def _leave(child: asyncio.subprocess.Process, family: Sequence[psutil.Process], limit_s: float) -> None:
    """Wait until a process has ended, no longer than this, and a little longer for all that was below it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await child.wait()
        async with asyncio.timeout(min(limit_s, 2.0)):
            while any(process.is_running() for process in family):
                await asyncio.sleep(0.05)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
