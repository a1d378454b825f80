"""Our own routes beside vLLM's: the lanes' signals, and a `/health` that knows of degraded."""

import dataclasses
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from streamserve.clock import now
from streamserve.pipeserve.supervisor import health
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.signals import Signals
from streamserve.types import LaneId


def router(scheduler: StreamScheduler) -> APIRouter:
    """The routes, reading from this scheduler."""
    routes = APIRouter()

    @routes.get("/health")
    async def get_health() -> Response:
        signals = scheduler.signals()
        status = health(signals.lanes)
        lanes = {lane: _state(signals, lane) for lane in signals.lanes}
        return JSONResponse({"status": status, "lanes": lanes}, status_code=503 if status == "not ready" else 200)

    @routes.get("/streamserve/lanes")
    async def get_lanes() -> dict[str, Any]:
        signals = scheduler.signals()
        at_s = now()
        return {"queued": signals.queued, "lanes": [_describe(signals, lane, at_s) for lane in signals.lanes]}

    return routes


def _state(signals: Signals, lane: LaneId) -> str:
    snapshot = signals.lanes[lane]
    return f"{snapshot.state}: {snapshot.error}" if snapshot.error else str(snapshot.state)


def _describe(signals: Signals, lane: LaneId, at_s: float) -> dict[str, Any]:
    snapshot = dataclasses.asdict(signals.lanes[lane])
    reported_s = snapshot.pop("at_s")
    # Seconds since the engine last reported, None before its first step: an instant of our clock means nothing outside.
    age_s = round(at_s - reported_s, 3) if reported_s else None
    return {**snapshot, "age_s": age_s, "dispatched": dataclasses.asdict(signals.load[lane])}
