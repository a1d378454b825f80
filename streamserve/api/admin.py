"""Who may change a running server, and how a refusal is worded."""

import hashlib
import secrets
from collections.abc import Sequence
from http import HTTPStatus

from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse


def error_response(
    status: HTTPStatus, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as OpenAI's API words it."""
    error = {"message": message, "type": status.phrase.replace(" ", "") + "Error", "param": param, "code": status.value}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


class Admins:
    """The keys that open the routes which change something: any of them, never an empty one; without keys all may."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._closed = bool(keys)
        self._digests = [_digest(key) for key in keys if key]

    def refusal(self, request: HTTPConnection, what: str) -> JSONResponse | None:
        """The answer to a request that may not do it, None if it may. what: of which the answer speaks."""
        if not self._closed or self._authorized(request):
            return None
        message = f"{what} needs an admin key: send it as Authorization: Bearer KEY"
        return error_response(HTTPStatus.UNAUTHORIZED, message, headers={"WWW-Authenticate": "Bearer"})

    def _authorized(self, request: HTTPConnection) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = _digest(key)
        # Every key is compared, each in constant time, so that the answer's delay tells nothing.
        matches = [secrets.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
