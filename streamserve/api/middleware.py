"""What every HTTP request passes through on its way to vLLM's application, and every response on its way out."""

import json
import uuid
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamserve.api import trace, wishes
from streamserve.types import Decision

PREFILL_LANE = b"x-streamserve-prefill-lane"
DECODE_LANE = b"x-streamserve-decode-lane"
DECISION = wishes.DECISION.encode()
REQUEST_ID = b"x-request-id"
RETRY_AFTER_S = b"1"
"""Sent with 429 and 503: a queue moves and a lane restarts within seconds, and OpenAI's clients wait this long."""
MOST_LANES = 64
"""Lanes that each of the two headers names: a request of many sequences has as many decisions, a header has an end."""


class HeadersMiddleware:
    """Gives every request an id and every response the headers that name it and the lanes that served it.

    Reads what the request's own headers ask for, and refuses with 400 what cannot be meant.

    The start of a response is held back until its body begins: by then the lanes are chosen. So a stream that fails
    before its first token is no stream yet, and is answered with the error's own status.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        noted: list[Decision] = []
        trace.decisions.set(noted)
        start: Message | None = None
        over = False
        asked = wishes.NO_WISHES

        async def held(message: Message) -> None:
            nonlocal start, over
            if message["type"] == "http.response.start":
                start = message
                return
            if over:
                return
            if start is not None:
                opening, start = start, None
                if failed := _failed_stream(opening, message):
                    opening, message = failed
                    over = True
                added = _headers(opening["status"], request_id, noted, asked.explain)
                opening["headers"] = [*opening.get("headers", ()), *added]
                await send(opening)
            await send(message)

        try:
            asked = wishes.read(scope["headers"])
        except wishes.BadWish as error:
            await _refuse(held, HTTPStatus.BAD_REQUEST, str(error), error.name)
            return
        trace.wishes.set(asked)
        await self._app(scope, receive, held)


class BodyLimitMiddleware:
    """Refuses a request body above a size with 413 before it is read whole."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._max_bytes:
            await self._refuse(send)
            return
        seen = 0
        answered = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise _TooLarge(f"the request body outgrew the limit of {self._max_bytes} bytes")
            return message

        async def heard(message: Message) -> None:
            # FastAPI makes a 400 of its own out of a body that cannot be read; only what came before that counts.
            nonlocal answered
            if answered or seen <= self._max_bytes:
                answered = True
                await send(message)

        try:
            await self._app(scope, counted, heard)
        except _TooLarge:
            if answered:
                raise
        if seen > self._max_bytes and not answered:
            await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        message = f"the request body is larger than {self._max_bytes} bytes: send less, or raise server.max_body_bytes"
        await _refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


class _TooLarge(Exception):
    """The body has outgrown the limit while it was read."""


async def _refuse(send: Send, status: HTTPStatus, message: str, parameter: str | None = None) -> None:
    """Answer with an error in OpenAI's form."""
    error = {"message": message, "type": "BadRequestError", "param": parameter, "code": status.value}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> bytes:
    """The client's request id, or a new one that the application then finds as if the client had sent it."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and value:
            given: bytes = value
            return given
    made = uuid.uuid4().hex.encode()
    scope["headers"] = [*scope["headers"], (REQUEST_ID, made)]
    return made


def _failed_stream(start: Message, body: Message) -> tuple[Message, Message] | None:
    """The plain response that a stream becomes whose first event is an error; None for any other response."""
    event: bytes = body.get("body", b"")
    if start["status"] != HTTPStatus.OK or not event.startswith(b'data: {"error"'):
        return None
    error = event.removeprefix(b"data: ").partition(b"\n\n")[0]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(error)).encode())]
    status = json.loads(error)["error"]["code"]
    return {**start, "status": status, "headers": headers}, {"type": "http.response.body", "body": error}


def _headers(status: int, request_id: bytes, noted: list[Decision], explain: bool) -> list[tuple[bytes, bytes]]:
    headers = [(REQUEST_ID, request_id)]
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers.append((b"retry-after", RETRY_AFTER_S))
    if noted:
        shown = noted[:MOST_LANES]
        headers.append((PREFILL_LANE, ",".join(decision.prefill for decision in shown).encode()))
        headers.append((DECODE_LANE, ",".join(decision.decode for decision in shown).encode()))
        if explain:
            headers.append((DECISION, trace.explained(noted)))
    return headers
