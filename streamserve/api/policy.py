"""``/streamserve/policy``: what trained policy serves, and another one instead, under traffic."""

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from streamserve.api.admin import Keys, error_response
from streamserve.errors import ConfigError, PolicyError
from streamserve.policy import mode
from streamserve.policy.switch import PolicySwitch

EXAMPLE = '{"policy": "auto", "mode": "shadow"}'


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    policy: str
    mode: str = "learned"


def router(policies: PolicySwitch, admins: Keys) -> APIRouter:
    """The routes over this switch."""
    routes = APIRouter()

    @routes.get("/streamserve/policy")
    async def get_policy() -> dict[str, Any]:
        return policies.report()

    @routes.post("/streamserve/policy")
    async def post_policy(request: Request) -> Response:
        if (refused := admins.refusal(request, "changing the policy")) is not None:
            return refused
        try:
            body = msgspec.json.decode(await request.body(), type=_Body)
        except msgspec.ValidationError as error:
            message = f"{error}; fields are policy and mode: send e.g. {EXAMPLE}"
            return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return error_response(HTTPStatus.BAD_REQUEST, f"the body is not JSON ({error}): send e.g. {EXAMPLE}")
        try:
            wanted = mode.parse(body.mode)
        except ConfigError as error:
            return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), "mode")
        try:
            # Files are read beside the serving loop; the exchange itself is between two decisions.
            policies.use(await asyncio.to_thread(policies.read, body.policy, wanted))
        except PolicyError as error:
            return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, f"{error}; what served goes on", "policy")
        return JSONResponse(policies.report())

    return routes
