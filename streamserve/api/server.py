"""`run`: from a configuration to a listening server, and down again on SIGINT or SIGTERM."""

import asyncio
import errno
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from streamserve.config import Config, ServerConfig
from streamserve.errors import SetupError, one_line
from streamserve.lanes.vllm import environment, model, version
from streamserve.lanes.vllm.launch import Launcher, in_thread
from streamserve.lanes.vllm.memory import check_fits
from streamserve.lanes.vllm.plan import LanePlan, available_cores, plan
from streamserve.machine import available_memory_gib
from streamserve.metrics.tensorboard import TensorBoardLog
from streamserve.policy.switch import PolicySwitch
from streamserve.scheduler.decision_log import DecisionLog
from streamserve.types import LaneId, Result

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from streamserve.scheduler.scheduler import StreamScheduler

logger = logging.getLogger(__name__)

FRONT = LaneId("front")
KEPT_LOG_FOLDERS = 10
BACKLOG = 2048
SHUTDOWN_S = 3
"""How long open connections may take to end once their requests were ended."""


class Startup(Protocol):
    """Who is told how the start goes."""

    def begin(self, model: str, lanes: Sequence[LaneId]) -> None: ...

    def stage(self, lane: LaneId, text: str) -> None: ...

    def ready(self, url: str, model: str, lanes: Sequence[LaneId], pairs: Sequence[tuple[LaneId, LaneId]]) -> None: ...

    def stopping(self) -> None: ...


def run(config: Config, startup: Startup, decision_log: Path | None = None, tensorboard: Path | None = None) -> None:
    """Serve until SIGINT or SIGTERM; raises `StreamServeError` when the start fails.

    decision_log: where to append a line of JSON per ended request. tensorboard: folder for rewards and latencies.
    """
    import uvloop

    uvloop.run(_run(config, startup, decision_log, tensorboard))


async def _run(config: Config, startup: Startup, decision_log: Path | None, tensorboard: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    plans = plan(config, available_cores())
    # Here, so that a wrong name costs no start.
    policies = PolicySwitch(config)
    with closing(_listen(config.server)) as listener:
        startup.begin(config.model, [lane.id for lane in plans])
        async with AsyncExitStack() as down:
            log = _decision_log(decision_log, down)
            board = _tensorboard(tensorboard, down)

            def ended(result: Result) -> None:
                log(result)
                if board is not None:
                    board.learn(result)

            starting = asyncio.create_task(_start(config, plans, startup, down, policies, ended))
            if await _first(starting, stop):
                app, name, scheduler = starting.result()
                if board is not None:
                    board.start(scheduler, policies.tally)
                startup.ready(_url(listener), name, [lane.id for lane in plans], config.stream_pairs())
                serving = asyncio.create_task(_serve(app, listener, stop))
                await _first(serving, stop)
                startup.stopping()
                # Streams end with an error event first; then nothing keeps the HTTP server from ending.
                await scheduler.close()
                await serving
            else:
                startup.stopping()
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)


async def _start(
    config: Config,
    plans: Sequence[LanePlan],
    startup: Startup,
    down: AsyncExitStack,
    policies: PolicySwitch,
    on_result: Callable[[Result], None],
) -> tuple["ASGIApp", str, "StreamScheduler"]:
    """Bring up lanes and front side by side: the application, the model's public name, who serves. `down` undoes it."""
    logs = _log_folder()
    launcher = Launcher(config.device, logs)
    launcher.prepare()
    _prepare_front(config.device, logs / "front.log")
    startup.stage(FRONT, "preparing the model")
    path = str(await in_thread(lambda: model.resolve(config.model, lambda text: startup.stage(FRONT, text))))
    check_fits(config, path, available_memory_gib())
    startup.stage(FRONT, "importing vLLM")
    await in_thread(_import_front)

    from prometheus_client import REGISTRY

    from streamserve.api import app, front
    from streamserve.build import assemble
    from streamserve.lanes.vllm.lane import VllmLane
    from streamserve.metrics import policy, prometheus
    from streamserve.metrics.results import ResultMetrics
    from streamserve.scheduler.watched import Watched

    args = app.options(path, config.server)
    startup.stage(FRONT, "loading the tokenizer")
    try:
        parts = await in_thread(lambda: front.build(config, path, plans))
    except Exception as error:
        raise SetupError(f"vLLM cannot serve {path}: {one_line(error)} (its log: {logs / 'front.log'})") from error
    lanes = [
        VllmLane(lane, path, config.engine, config.speculation, launcher, parts.metrics.engine_step) for lane in plans
    ]
    results = ResultMetrics(REGISTRY)

    def ended(result: Result) -> None:
        results.learn(result)
        on_result(result)

    serving = assemble(config, lanes, ended, policies)
    prometheus.install(serving.scheduler, REGISTRY)
    policy.install(policies.tally, REGISTRY)
    down.push_async_callback(serving.aclose)
    startup.stage(FRONT, "ready")
    client = parts.client(Watched(serving.scheduler, policies.seat) if policies.seat else serving.scheduler)
    application, _ = await asyncio.gather(
        app.build(args, client, serving.scheduler, config.server, policies), serving.start(startup.stage)
    )
    return application, app.served_name(path, config.server), serving.scheduler


async def _serve(app: "ASGIApp", listener: socket.socket, stop: asyncio.Event) -> None:
    import uvicorn
    from vllm.entrypoints.launchers.launcher import NoSignalServer

    server = NoSignalServer(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_S)
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await _first(serving, stop)
    server.should_exit = True
    await serving


async def _first(work: asyncio.Task[Any], stop: asyncio.Event) -> bool:
    """Wait until `work` has ended or `stop` is set; whether the work has ended."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    return work.done()


def _listen(server: ServerConfig) -> socket.socket:
    """Bind before anything is loaded: a port in use is told at once, and connections queue until the server is up."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((server.host, server.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        # A name that nobody knows, or an address of another machine, stays wrong on every port.
        of_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        advice = (
            "choose an address of this machine with --host, e.g. 127.0.0.1, or 0.0.0.0 for all"
            if of_host
            else "choose another with --port (make serve: PORT=...), or stop what uses it"
        )
        raise SetupError(f"cannot listen on {server.host} port {server.port}: {error.strerror}; {advice}") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _log_folder() -> Path:
    """A new folder for this run's logs; those of the newest runs are kept, and of servers that still run."""
    root = model.cache_folder() / "logs"
    folder = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"logs cannot be written to {folder} ({error.strerror}): set STREAMSERVE_CACHE to a folder that can be"
        ) from error
    for old in sorted(root.iterdir())[:-KEPT_LOG_FOLDERS]:
        pid = old.name.rpartition("-")[2]
        if not (pid.isdecimal() and psutil.pid_exists(int(pid))):
            shutil.rmtree(old, ignore_errors=True)
    return folder


def _prepare_front(device: str, log: Path) -> None:
    """Give vLLM's half in this process its environment, and its log a file instead of the terminal."""
    os.environ.update({key: value for key, value in environment.shared(device).items() if key != "LD_PRELOAD"})
    os.environ["VLLM_CONFIGURE_LOGGING"] = "0"
    # With it vLLM's /metrics would read files that other processes left, and not see our own series.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    # Told at the first import of torch, to no use: a CPU build has no Triton.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    for name in ("vllm", "transformers", "huggingface_hub"):
        library = logging.getLogger(name)
        library.handlers[:] = [handler]
        library.propagate = False
        library.setLevel(logging.INFO)


def _import_front() -> None:
    version.check()
    import streamserve.api.app
    import streamserve.api.front
    import streamserve.lanes.vllm.lane  # noqa: F401


def _decision_log(path: Path | None, down: AsyncExitStack) -> Callable[[Result], None]:
    """Who is told of results; `down` closes the file, after everything that still has results. Raises `SetupError`."""
    if path is None:
        return _log_result
    log = DecisionLog(path)
    down.push_async_callback(log.aclose)
    return log.write


def _tensorboard(folder: Path | None, down: AsyncExitStack) -> TensorBoardLog | None:
    """Where scalars go, if anywhere; `down` closes it. Raises `SetupError`."""
    if folder is None:
        return None
    board = TensorBoardLog(folder)
    down.push_async_callback(board.aclose)
    return board


def _log_result(result: Result) -> None:
    logger.debug("%s", result)
