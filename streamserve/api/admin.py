"""Who may use a server and who may change it, and how a refusal is worded."""

import hashlib
import secrets
from collections.abc import Sequence
from http import HTTPStatus

from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OURS = "/streamserve/"
"""Paths below it ask for their keys themselves."""


def error_response(
    status: HTTPStatus, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as OpenAI's API words it."""
    error = {"message": message, "type": status.phrase.replace(" ", "") + "Error", "param": param, "code": status.value}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


class Keys:
    """Keys that open what is closed to others: any of them, never an empty one; without keys nothing is closed.

    name: what a refusal calls one of them.
    """

    def __init__(self, keys: Sequence[str] = (), name: str = "an admin key") -> None:
        self._name = name
        self._closed = bool(keys)
        self._digests = [_digest(key) for key in keys if key]

    def refusal(self, request: HTTPConnection, what: str) -> JSONResponse | None:
        """The answer to a request that may not do it, None if it may. what: of which the answer speaks."""
        if not self._closed or self._authorized(request):
            return None
        message = f"{what} needs {self._name}: send it as Authorization: Bearer KEY"
        return error_response(HTTPStatus.UNAUTHORIZED, message, headers={"WWW-Authenticate": "Bearer"})

    def _authorized(self, request: HTTPConnection) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = _digest(key)
        # Every key is compared, each in constant time, so that the answer's delay tells nothing.
        matches = [secrets.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


class PostsNeedKeys:
    """With API keys, every POST needs one.

    vLLM asks for it below /v1 and a few other paths; what it has elsewhere, /invocations, /tokenize and more, works for
    anybody, and /invocations generates text.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            refusal = None if path.startswith(OURS) else self._keys.refusal(HTTPConnection(scope), path)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
