"""A whole server over fake lanes on a port of this machine: our own routes, and an endpoint like OpenAI's."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from streamserve.api import agent, policy, routes, wishes
from streamserve.api.admin import Keys, error_response
from streamserve.build import Serving, assemble
from streamserve.clock import now
from streamserve.config import Config
from streamserve.errors import ServeError
from streamserve.policy.switch import PolicySwitch
from streamserve.scheduler.watched import Watched
from streamserve.types import Request as Sequence_
from streamserve.types import Result
from tests.bench.slow import SlowLane
from tests.fakes import FakeLane


@dataclass(frozen=True, slots=True)
class Plant:
    """What a test may look at; only in the server's own loop, but for `url` and `results`."""

    url: str
    serving: Serving
    switch: PolicySwitch
    lanes: Sequence[FakeLane]
    results: list[Result]
    loop: asyncio.AbstractEventLoop
    server: uvicorn.Server

    def start(self, id: str, prompt: Sequence[int] = (1, 2, 3), max_tokens: int = 4) -> "asyncio.Task[int]":
        """A request of somebody; the number of tokens it got."""
        return asyncio.create_task(_complete(self.scheduler, Sequence_(id, tuple(prompt), max_tokens, now())))

    @property
    def scheduler(self) -> Any:
        """As the application has it."""
        seat = self.switch.seat
        return Watched(self.serving.scheduler, seat) if seat else self.serving.scheduler


async def _complete(scheduler: Any, request: Sequence_) -> int:
    tokens = 0
    async for chunk in scheduler.serve(request, lambda _decision: None):
        tokens += len(chunk.token_ids)
    return tokens


@asynccontextmanager
async def plant(config: Config, turn_s: float = 0.0, admin_keys: Sequence[str] = ()) -> AsyncIterator[Plant]:
    """A server in the running loop. turn_s: how long each turn of a lane takes."""
    lanes = [SlowLane(lane.id, turn_s) if turn_s else FakeLane(lane.id) for lane in config.lanes]
    results: list[Result] = []
    switch = PolicySwitch(config)
    serving = assemble(config, lanes, results.append, switch)
    await serving.start(lambda _lane, _stage: None)
    app, admins = FastAPI(), Keys(admin_keys)
    app.include_router(routes.router(serving.scheduler, admins, switch))
    app.include_router(policy.router(switch, admins))
    app.include_router(agent.router(serving.scheduler, switch, admins))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    made = Plant(f"http://127.0.0.1:{port}", serving, switch, lanes, results, asyncio.get_running_loop(), server)
    _like_openai(app, made)
    try:
        yield made
    finally:
        server.should_exit = True
        await serving.aclose()
        await running


def _like_openai(app: FastAPI, made: Plant) -> None:
    @app.get("/v1/models")
    async def models() -> Any:
        return {"data": [{"id": "fake"}]}

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await request.json()
        wished = wishes.read(request.scope["headers"])
        id = f"cmpl-{request.headers['x-request-id']}-0-0a1b2c3d"
        asked = Sequence_(id, tuple(body["prompt"]), body["max_tokens"], now(), slo=wished.slo, continuable=True)
        try:
            made.scheduler.check()
            return JSONResponse({"usage": {"completion_tokens": await _complete(made.scheduler, asked)}})
        except ServeError as error:
            return error_response(error.status, str(error))


@contextmanager
def threaded(config: Config, turn_s: float = 0.0, admin_keys: Sequence[str] = ()) -> Iterator[Plant]:
    """A server in a thread of its own."""
    up = threading.Event()
    stop: list[asyncio.Event] = []
    made: list[Plant] = []
    failed: list[BaseException] = []

    async def main() -> None:
        stop.append(asyncio.Event())
        async with plant(config, turn_s, admin_keys) as one:
            made.append(one)
            up.set()
            await stop[0].wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert up.wait(20)
    if failed:
        raise failed[0]
    try:
        yield made[0]
    finally:
        if thread.is_alive():
            made[0].loop.call_soon_threadsafe(stop[0].set)
        thread.join(20)
        assert not thread.is_alive()
        if failed:
            raise failed[0]
