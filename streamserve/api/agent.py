"""``/streamserve/agent``: a WebSocket on which an agent of another process takes the server's routing decisions."""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from http import HTTPStatus

import msgspec
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from streamserve.api.admin import Keys, error_response
from streamserve.errors import PolicyError
from streamserve.policy import wire
from streamserve.policy.seat import Occupied, Seat, Wish
from streamserve.policy.switch import PolicySwitch
from streamserve.policy.wire import Look, Seen, Told
from streamserve.scheduler.scheduler import StreamScheduler

logger = logging.getLogger(__name__)

PATH = "/streamserve/agent"
SEND_LIMIT_S = 10.0
"""An agent that reads nothing for so long is left alone."""
GOING_AWAY, UNSUPPORTED = 1001, 1003
"""Close codes of RFC 6455."""


def router(scheduler: StreamScheduler, policies: PolicySwitch, admins: Keys) -> APIRouter:
    """The route over this switch's seat; refusals are plain HTTP answers to the handshake."""
    routes = APIRouter()

    @routes.websocket(PATH)
    async def agent(socket: WebSocket) -> None:
        seat = policies.seat
        refused = admins.refusal(socket, "attaching an agent")
        if refused is None and seat is None:
            message = "this server takes no agents: start it with --set policy.remote=true"
            refused = error_response(HTTPStatus.FORBIDDEN, message)
        if refused is not None or seat is None:
            assert refused is not None
            await socket.send_denial_response(refused)
            return
        outbox = Outbox()
        if (refused := _sit(seat, socket, outbox, scheduler)) is not None:
            await socket.send_denial_response(refused)
            return
        try:
            await _talk(socket, seat, outbox, scheduler)
        finally:
            # Whatever has happened to the connection: whoever waits for this agent goes on now.
            seat.leave(outbox.put)

    return routes


class Outbox:
    """Messages on their way to one agent; putting one in never waits."""

    def __init__(self) -> None:
        self._messages: deque[Told] = deque()
        self._some = asyncio.Event()

    def put(self, message: Told) -> None:
        """Send it as soon as can be."""
        self._messages.append(message)
        self._some.set()

    async def take(self) -> list[Told]:
        """Wait for messages, and take all there are."""
        await self._some.wait()
        self._some.clear()
        taken = list(self._messages)
        self._messages.clear()
        return taken


def _sit(seat: Seat, socket: WebSocket, outbox: Outbox, scheduler: StreamScheduler) -> JSONResponse | None:
    """The answer to an agent that cannot stay, None if it can."""
    asked = dict(socket.query_params)
    try:
        if "depth_caps" in asked:
            caps = msgspec.json.decode(asked["depth_caps"], type=tuple[int | None, ...])
            wish = msgspec.convert({**asked, "depth_caps": caps}, Wish, strict=False)
        else:
            wish = msgspec.convert(asked, Wish, strict=False)
        seat.take(wish, outbox.put, scheduler.look)
    except Occupied as error:
        return error_response(HTTPStatus.CONFLICT, str(error))
    except (PolicyError, msgspec.MsgspecError) as error:
        return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    return None


async def _talk(socket: WebSocket, seat: Seat, outbox: Outbox, scheduler: StreamScheduler) -> None:
    await socket.accept()
    logger.info("an agent is attached%s", "" if seat.agent is None else f", each request waits {seat.agent.budget_s} s")
    sending = asyncio.create_task(_send(socket, outbox))
    hearing = asyncio.create_task(_hear(socket, seat, outbox, scheduler))
    try:
        await asyncio.wait((sending, hearing), return_when=asyncio.FIRST_COMPLETED)
    finally:
        seat.leave(outbox.put)
        for task in (sending, hearing):
            task.cancel()
        outcomes = await asyncio.gather(sending, hearing, return_exceptions=True)
    problems = [each for each in outcomes if isinstance(each, Exception) and not isinstance(each, WebSocketDisconnect)]
    logger.info("the agent is gone%s", f": {problems[0]}" if problems else "")
    if problems:
        code = UNSUPPORTED if isinstance(problems[0], PolicyError) else GOING_AWAY
        # It may be closed by now.
        with suppress(RuntimeError, TimeoutError):
            async with asyncio.timeout(SEND_LIMIT_S):
                await socket.close(code, str(problems[0])[:120])


async def _send(socket: WebSocket, outbox: Outbox) -> None:
    while True:
        frame = wire.frame(await outbox.take())
        async with asyncio.timeout(SEND_LIMIT_S):
            await socket.send_bytes(frame)


async def _hear(socket: WebSocket, seat: Seat, outbox: Outbox, scheduler: StreamScheduler) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        said = wire.said(message.get("bytes") or b"")
        if isinstance(said, Look):
            outbox.put(Seen(scheduler.signals()))
        elif seat.agent is not None:
            seat.agent.reply(said)
