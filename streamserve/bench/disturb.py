"""Disturbances of live lanes in the middle of a run: a hog on a lane's cores, a lane killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal, cast, get_args

from streamserve.errors import ConfigError
from streamserve.protocols import Lane
from streamserve.types import LaneState

Kind = Literal["slow", "kill"]
USAGE = "write slow:LANE[@SECONDS] or kill:LANE[@SECONDS], with the lane's number from 0 on"

HOG = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
READY_POLL_S = 0.1
READY_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happens to which lane, and when, in seconds from the start of the run.

    `slow`: another process takes half of the time of its last core, to the end of the run. `kill`: its engine is
    killed once. A set of fewer lanes has it happen to its last one.
    """

    kind: Kind
    lane: int
    at_s: float = 0.0


def parse(text: str) -> Disturbance:
    """A disturbance from its text. Raises `ConfigError`."""
    kind, _, rest = text.partition(":")
    lane, _, at_s = rest.partition("@")
    if kind in get_args(Kind):
        with suppress(ValueError):
            return Disturbance(cast(Kind, kind), int(lane), float(at_s or 0.0))
    raise ConfigError(f"disturbance {text!r}: {USAGE}")


@asynccontextmanager
async def disturbed(lanes: Sequence[Lane], disturbances: Sequence[Disturbance]) -> AsyncIterator[None]:
    """Let these happen while the body runs; afterwards no hog is left and every lane is ready again.

    Raises `TimeoutError` when a lane does not come back.
    """
    hogs: list[subprocess.Popen[bytes]] = []
    last = len(lanes) - 1
    tasks = [asyncio.create_task(_happen(lanes[min(each.lane, last)], each, hogs)) for each in disturbances]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for hog in hogs:
            hog.kill()
            hog.wait()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    async with asyncio.timeout(READY_LIMIT_S):
        while any(lane.signals().state is not LaneState.READY for lane in lanes):
            await asyncio.sleep(READY_POLL_S)


async def _happen(lane: Lane, disturbance: Disturbance, hogs: list[subprocess.Popen[bytes]]) -> None:
    await asyncio.sleep(disturbance.at_s)
    pid = lane.signals().pid
    if pid is None:
        raise ConfigError(f"{lane.id} has no process to disturb; only live lanes can be")
    if disturbance.kind == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        core = max(os.sched_getaffinity(pid))
        hogs.append(subprocess.Popen([sys.executable, "-S", "-c", HOG, str(core)]))
