"""Our own routes beside vLLM's: the lanes' signals, the control of their depth, a `/health` that knows of degraded."""

import asyncio
import dataclasses
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from streamserve.api import depth
from streamserve.api.admin import Keys, error_response
from streamserve.clock import now
from streamserve.errors import ServeError
from streamserve.pipeserve.supervisor import health
from streamserve.policy.switch import PolicySwitch
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.signals import DepthControl, Signals
from streamserve.types import LaneId

CONTROL_S = 30.0
"""How long a lane may take to answer, which it does between two of its steps."""


def router(scheduler: StreamScheduler, admins: Keys, policies: PolicySwitch | None = None) -> APIRouter:
    """The routes over this scheduler. policies: told of in `/health`."""
    routes = APIRouter()

    @routes.get("/health")
    async def get_health() -> Response:
        signals = scheduler.signals()
        status = health(signals.lanes)
        lanes = {lane: _state(signals, lane) for lane in signals.lanes}
        report: dict[str, Any] = {"status": status, "lanes": lanes}
        if policies is not None:
            report["policy"] = policies.report()
        return JSONResponse(report, status_code=503 if status == "not ready" else 200)

    @routes.get("/streamserve/lanes")
    async def get_lanes() -> dict[str, Any]:
        signals = scheduler.signals()
        at_s = now()
        return {"queued": signals.queued, "lanes": [_describe(signals, lane, at_s) for lane in signals.lanes]}

    @routes.post("/streamserve/lanes/{lane}/depth")
    async def post_depth(lane: LaneId, request: Request) -> Response:
        if (refused := admins.refusal(request, "changing a lane")) is not None:
            return refused
        try:
            wish = depth.parse(await request.body())
            async with asyncio.timeout(CONTROL_S):
                await scheduler.control(lane, wish.control, wish.ttl_s)
        except depth.Refused as error:
            return error_response(error.status, str(error), error.param)
        except ServeError as error:
            return error_response(error.status, str(error))
        except TimeoutError:
            message = f"{lane} has not answered within {CONTROL_S:g} s: see GET /health, and try again"
            return error_response(HTTPStatus.SERVICE_UNAVAILABLE, message)
        # The default is the lane's to name; any other is what was sent, whatever the engine has reported by now.
        in_force = wish.control or scheduler.signals().lanes[lane].depth
        expires_in_s = wish.ttl_s if wish.control else None
        return JSONResponse({"lane": lane, "depth": in_force and _control(in_force), "expires_in_s": expires_in_s})

    return routes


def _state(signals: Signals, lane: LaneId) -> str:
    snapshot = signals.lanes[lane]
    return f"{snapshot.state}: {snapshot.error}" if snapshot.error else str(snapshot.state)


def _describe(signals: Signals, lane: LaneId, at_s: float) -> dict[str, Any]:
    snapshot = signals.lanes[lane]
    report = dataclasses.asdict(snapshot)
    # Ages instead of instants of our clock, which mean nothing outside; None where nothing was reported yet.
    report["age_s"] = _age_s(report.pop("at_s"), at_s)
    report["device"]["age_s"] = _age_s(report["device"].pop("at_s"), at_s)
    report["depth"] = snapshot.depth and _control(snapshot.depth)
    dispatched = dataclasses.asdict(signals.load[lane])
    # Our clock means nothing elsewhere.
    del dispatched["given_s"]
    return {**report, "dispatched": dispatched}


def _age_s(instant_s: float, at_s: float) -> float | None:
    return round(at_s - instant_s, 3) if instant_s else None


def _control(control: DepthControl) -> dict[str, Any]:
    return {"control": depth.short(control), **dataclasses.asdict(control)}
