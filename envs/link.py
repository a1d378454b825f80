"""Link: an agent's connection to a server that runs, on an event loop in a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import Any

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from envs.running import CONNECT_LIMIT_S, Remote, address
from streamserve.clock import now
from streamserve.errors import ConfigError, SetupError, StreamServeError, one_line
from streamserve.policy import wire
from streamserve.policy.wire import Said, Told
from streamserve.signals import DepthControl
from streamserve.types import LaneId
from streamserve.workload.plan import Planned

LEAVING_S = 1.0
"""For so long a place that is taken may be about to be left."""
CLOSE_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Gone:
    """The connection has ended; nothing comes after this."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What the server's endpoint said to one of the link's own requests; error: None = it was served."""

    number: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Sent:
    """All of the link's own requests have been sent: so many."""

    requests: int


Message = Told | Gone | Answered | Sent


class Link:
    """Connected from the start to `close`.

    wish: of what the server is asked for, see `streamserve.policy.seat.Wish`.
    Raises `SetupError` where no server answers, and `ConfigError` where it refuses.
    """

    def __init__(self, remote: Remote, wish: Mapping[str, Any]) -> None:
        self._remote = remote
        self._address = address(remote.url, wish)
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up: Future[None] = Future()
        self._driving: Future[None] | None = None
        self._http: httpx.AsyncClient
        self._thread = threading.Thread(target=self._run, name="streamserve-link", daemon=True)
        self._thread.start()
        try:
            self._up.result(2 * CONNECT_LIMIT_S)
        except TimeoutError as error:
            raise SetupError(f"{remote.url} does not answer; look whether it is up") from error

    def next(self, within_s: float) -> Message:
        """The next message. Raises `TimeoutError`."""
        try:
            return self._inbox.get(timeout=max(0.0, within_s)) if within_s > 0 else self._inbox.get_nowait()
        except Empty as error:
            raise TimeoutError(f"{self._remote.url} said nothing for {within_s:g} s") from error

    def say(self, message: Said) -> None:
        """Send it; nothing happens when the connection has ended."""
        self._call(self._outbox.put_nowait, wire.say(message))

    def drive(self, planned: Iterable[Planned], marker: str, limit_s: float) -> None:
        """Send these requests to the server's endpoint when they are planned, whatever becomes of them.

        marker: the n-th request's id has `marker.n` in it. limit_s: how long one may take.
        """
        self._driving = self._submit(self._drive(planned, marker, limit_s))

    def stop_driving(self) -> None:
        """Send no more, and hang up on those that are served."""
        driving, self._driving = self._driving, None
        if driving is not None:
            driving.cancel()

    def control(self, controls: Mapping[LaneId, DepthControl], ttl_s: float) -> None:
        """Set depth controls; a lane that has died or drafts nothing stays as it is."""
        self._submit(self._control(controls, ttl_s))

    def close(self) -> None:
        """Hang up; idempotent."""
        self.stop_driving()
        self._call(self._stop.set)
        self._thread.join(2 * CLOSE_LIMIT_S)

    def _call(self, function: Any, *arguments: Any) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _submit(self, main: Coroutine[Any, Any, None]) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(main, self._loop)

    def _run(self) -> None:
        reason = "closed"
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                reason = runner.run(self._main())
        except BaseException as error:
            if self._up.done():
                reason = one_line(error)
            else:
                self._up.set_exception(_explained(error, self._remote.url))
        self._inbox.put(Gone(reason))

    async def _main(self) -> str:
        """Why it ended."""
        async with (
            await self._connected() as socket,
            httpx.AsyncClient(
                base_url=self._remote.url, timeout=CONNECT_LIMIT_S, limits=httpx.Limits(), trust_env=False
            ) as self._http,
        ):
            self._up.set_result(None)
            reading = asyncio.create_task(self._read(socket))
            tasks = [reading, asyncio.create_task(self._write(socket)), asyncio.create_task(self._stop.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return "closed" if reading.cancelled() else reading.result()

    async def _connected(self) -> ClientConnection:
        until_s = now() + LEAVING_S
        while True:
            try:
                return await connect(
                    self._address,
                    additional_headers=self._remote.headers(admin=True),
                    proxy=None,
                    compression=None,
                    open_timeout=CONNECT_LIMIT_S,
                    close_timeout=CLOSE_LIMIT_S,
                    max_size=None,
                    # The agent learns between two rollouts, and the server goes on telling.
                    max_queue=None,
                )
            except InvalidStatus as error:
                if error.response.status_code != HTTPStatus.CONFLICT or now() > until_s:
                    raise
            await asyncio.sleep(LEAVING_S / 10)

    async def _read(self, socket: ClientConnection) -> str:
        try:
            while True:
                frame = await socket.recv(decode=False)
                for message in wire.told(frame):
                    self._inbox.put(message)
        except ConnectionClosed as closed:
            told = closed.rcvd
            return f"it hung up ({told.reason or told.code})" if told is not None else "the connection broke"
        except StreamServeError as error:
            return str(error)

    async def _write(self, socket: ClientConnection) -> None:
        try:
            while True:
                await socket.send(await self._outbox.get())
        except ConnectionClosed:
            # The reader knows why.
            await asyncio.get_running_loop().create_future()

    async def _drive(self, planned: Iterable[Planned], marker: str, limit_s: float) -> None:
        try:
            await self._send_all(planned, marker, limit_s)
        except Exception as error:
            self._inbox.put(Gone(f"its traffic could not be sent: {one_line(error)}"))

    async def _send_all(self, planned: Iterable[Planned], marker: str, limit_s: float) -> None:
        headers = self._remote.headers(admin=False)
        model = await self._model(headers)
        begun_s, sent = now(), 0
        async with asyncio.TaskGroup() as group:
            for number, each in enumerate(planned):
                await asyncio.sleep(max(0.0, begun_s + each.arrival_s - now()))
                body = {"model": model, "prompt": each.prompt_token_ids, "max_tokens": each.max_tokens}
                wishes = {"ttft": each.slo.ttft_s, "tpot": each.slo.tpot_s}
                slo = {f"x-streamserve-{key}-slo-ms": f"{1000 * s:g}" for key, s in wishes.items() if s is not None}
                own = {**headers, **slo, "x-request-id": f"{marker}.{number}"}
                group.create_task(self._complete(number, body, own, limit_s))
                sent += 1
            self._inbox.put(Sent(sent))

    async def _model(self, headers: Mapping[str, str]) -> str:
        try:
            response = await self._http.get("/v1/models", headers=headers)
            name: str = response.raise_for_status().json()["data"][0]["id"]
            return name
        except (httpx.HTTPError, ValueError, LookupError) as error:
            # Then its requests say what is wrong.
            return one_line(error)

    async def _complete(self, number: int, body: Mapping[str, Any], headers: Mapping[str, str], limit_s: float) -> None:
        asked = {**body, "temperature": 0, "ignore_eos": True}
        error = None
        try:
            response = await self._http.post("/v1/completions", json=asked, headers=headers, timeout=limit_s)
            if response.is_error:
                error = f"HTTP {response.status_code}: {_message(response.content) or response.reason_phrase}"
        except httpx.HTTPError as problem:
            error = one_line(problem)
        self._inbox.put(Answered(number, error))

    async def _control(self, controls: Mapping[LaneId, DepthControl], ttl_s: float) -> None:
        headers = self._remote.headers(admin=True)
        for lane, control in controls.items():
            body = {**msgspec.to_builtins(control), "ttl_s": ttl_s}
            path = f"/streamserve/lanes/{lane}/depth"
            try:
                await self._http.post(path, json=body, headers=headers)
            except httpx.HTTPError:
                # The server has gone, which the connection tells, or the lane has, which the next signals do.
                return


def _explained(error: BaseException, url: str) -> Exception:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        said = _message(error.response.body or b"") or f"HTTP {status}, it may be no StreamServe server"
        return ConfigError(f"{url} takes no agent: {said}")
    if isinstance(error, OSError | TimeoutError | InvalidHandshake | InvalidURI | EOFError):
        advice = "start one with streamserve serve --set policy.remote=true"
        return SetupError(f"no server answers at {url} ({one_line(error)}): {advice}")
    return error if isinstance(error, Exception) else SetupError(one_line(error))


def _message(body: bytes | bytearray) -> str | None:
    """What an error of the server's says."""
    try:
        message: str = json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return None
    return message
