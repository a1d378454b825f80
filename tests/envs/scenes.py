"""Small environments for tests: two lanes, quick episodes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import gymnasium

import envs  # noqa: F401
from envs.live import Live
from streamserve.config import Config, LaneConfig, SpeculationConfig
from streamserve.protocols import Lane
from streamserve.types import LaneId, Request, Slo
from streamserve.workload.plan import Planned
from tests import calibrations
from tests.bench.slow import SlowLane
from tests.fakes import FakeLane

A, B = LaneId("a"), LaneId("b")
CALIBRATION = calibrations.example()
IDS = ("Serve", "Route", "Spec")


def config(pairs: Any = "own", **fields: Any) -> Config:
    return Config(**{"lanes": [LaneConfig(A), LaneConfig(B)], "model": "example", "pairs": pairs} | fields)


def plain(pairs: str = "own") -> Config:
    """Lanes that do not speculate, whose simulation is the quickest."""
    return config(pairs, speculation=SpeculationConfig(method="none"))


def simulated(name: str, **given: Any) -> Any:
    """`streamserve/<name>-v0`."""
    known: dict[str, Any] = {"config": config(), "calibration": CALIBRATION, "requests": 20, "workload": "64:16"}
    return gymnasium.make(f"streamserve/{name}-v0", **known | given)


def live(name: str, lanes: Any, **given: Any) -> Any:
    """`streamserve/<name>Live-v0` over these lanes. lanes: a context manager, see `Live`."""
    source = Live(lanes, request, idle_limit_s=2.0, decision_limit_s=5.0)
    known: dict[str, Any] = {"config": config(), "rate": 50.0, "requests": 20, "workload": "8:4", "tick_s": 0.05}
    return gymnasium.make(f"streamserve/{name}Live-v0", **{**known, "live": source, **given})


def request(id: str, number: int, planned: Planned, arrived_s: float, slo: Slo) -> Request:
    return Request(id, planned.prompt_token_ids, planned.max_tokens, arrived_s, continuable=True, slo=slo)


def slow(turn_s: float = 0.002, keep: list[FakeLane] | None = None) -> Any:
    """Fake lanes that take a little time, on a real loop. keep: where the lanes are put."""

    @asynccontextmanager
    async def lanes() -> AsyncIterator[Sequence[Lane]]:
        made = [SlowLane("a", turn_s), SlowLane("b", turn_s)]
        if keep is not None:
            keep.extend(made)
        for lane in made:
            await lane.start(lambda lane, stage: None)
        yield made
        for lane in made:
            await lane.aclose()

    return lanes


def heuristic(environment: Any, seed: int = 1) -> tuple[float, list[dict[str, Any]], bool, bool]:
    """A whole episode as FlowGuard has it: sum of rewards, infos, terminated, truncated."""
    _, info = environment.reset(seed=seed)
    infos, total = [info], 0.0
    while True:
        _, reward, terminated, truncated, info = environment.step(info["heuristic"])
        total += reward
        infos.append(info)
        if terminated or truncated:
            return total, infos, terminated, truncated
