"""How a StreamServe server's lanes stand during a run, from outside."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx

from streamserve.bench.contest.cell import Watched
from streamserve.bench.contest.server import Serving

EVERY_S = 0.5


async def watch(serving: Serving, stop: asyncio.Event, every_s: float = EVERY_S) -> tuple[Watched, ...]:
    """Look at a StreamServe server's lanes until `stop` is set; times from the call on. () for other servers."""
    begun_s = time.perf_counter()
    seen = await watch_clock(serving, stop, every_s)
    return tuple(replace(each, at_s=each.at_s - begun_s) for each in seen)


async def watch_clock(serving: Serving, stop: asyncio.Event, every_s: float = EVERY_S) -> tuple[Watched, ...]:
    """As `watch`, with times of the machine's monotonic clock, which the load generator's are of too."""
    if serving.lanes_url is None:
        return ()
    seen: list[Watched] = []
    before: Mapping[str, Any] = {}
    async with httpx.AsyncClient(timeout=every_s * 4) as http:
        while not stop.is_set():
            # A server that does not answer for once leaves a gap in the curve; the run itself tells what is wrong.
            with suppress(httpx.HTTPError):
                answer = (await http.get(serving.lanes_url)).raise_for_status().json()
                lanes = {lane["lane"]: lane for lane in answer["lanes"]}
                seen.append(_watched(time.perf_counter(), lanes, before))
                before = lanes
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await stop.wait()
    return tuple(seen)


def _watched(at_s: float, lanes: Mapping[str, Any], before: Mapping[str, Any]) -> Watched:
    depth = {name: _depth(lane, before[name]) for name, lane in lanes.items() if name in before}
    return Watched(
        at_s=at_s,
        depth={name: each for name, each in depth.items() if each is not None},
        running={name: lane["running"] for name, lane in lanes.items()},
        waiting={name: lane["waiting"] for name, lane in lanes.items()},
    )


def _depth(lane: Mapping[str, Any], before: Mapping[str, Any]) -> float | None:
    """Draft tokens verified per request and step since the look before; None where no request decoded since.

    A request gains a token of its own and those accepted in each step, so what is not accepted counts its steps.
    """
    gained, accepted, drafted = (
        lane[name] - before[name] for name in ("output_tokens_total", "accepted_tokens_total", "draft_tokens_total")
    )
    steps = gained - accepted
    # A lane that was started anew counts from zero.
    return float(drafted / steps) if steps > 0 and drafted >= 0 else None
