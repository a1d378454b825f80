"""A live environment over a real engine: whole episodes, and the engine is gone afterwards."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import gymnasium
import psutil
import pytest

import envs  # noqa: F401
from envs.live import Live
from streamserve import config as configuration
from streamserve.bench import rig
from streamserve.protocols import Lane
from streamserve.types import Request, Slo
from streamserve.workload.plan import Planned
from tests.live.episode import played

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

SMALL = ["lanes.0.cores=1", "engine.kv_cache_gib=0.25", "engine.max_model_len=512", "engine.max_running=8"]
CONFIG = configuration.load("unified", SMALL)
PIDS: list[int] = []


@asynccontextmanager
async def lanes() -> AsyncIterator[Sequence[Lane]]:
    async with rig.live({"one": CONFIG}, lambda _lane, _stage: None) as up:
        ready = list(up.sets["one"].lanes.values())
        PIDS.extend(pid for lane in ready if (pid := lane.signals().pid) is not None)
        yield ready


async def clean(up: Sequence[Lane]) -> None:
    await rig.forget_prefixes({lane.id: lane for lane in up})


def request(id: str, _number: int, planned: Planned, arrived_s: float, slo: Slo) -> Request:
    return rig.greedy(id, planned.prompt_token_ids, planned.max_tokens, arrived_s, slo)


def test_episodes_of_a_real_engine_drain_and_cost_what_they_lasted() -> None:
    environment: Any = gymnasium.make(
        "streamserve/ServeLive-v0",
        config=CONFIG,
        live=Live(lanes, request, clean=clean),
        rate=4.0,
        requests=6,
        drain=True,
        workload="16:6",
        vocabulary=40_000,
    )
    try:
        for seed in (1, 2):
            played(environment, seed, requests=6)
    finally:
        environment.close()
    assert PIDS
    assert not any(map(psutil.pid_exists, PIDS))
