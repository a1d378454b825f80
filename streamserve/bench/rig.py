"""Live lanes in this process, without HTTP: what the benchmarks measure on.

Several sets of lanes may be up at once on the same cores, as long as one of them has work at a time: comparing two
layouts then needs no restart between runs.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from streamserve.build import assemble
from streamserve.config import Config
from streamserve.errors import ConfigError, NotSpeculating
from streamserve.lanes.vllm import environment, model, plan
from streamserve.lanes.vllm.launch import Launcher
from streamserve.protocols import Lane, Progress, Router
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.types import LaneId, Request, Slo
from streamserve.workload.openloop import OnResult
from streamserve.workload.plan import Planned

if TYPE_CHECKING:
    from streamserve.lanes.vllm.lane import OnOutputs, VllmLane
    from streamserve.lanes.vllm.tokenizer import ChatTokenizer

IDLE_LIMIT_S = 120.0
IDLE_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class LaneSet:
    """Ready lanes of one configuration."""

    config: Config
    lanes: Mapping[LaneId, Lane]

    def scheduler(
        self, on_result: OnResult, config: Config | None = None, router: Router | None = None
    ) -> StreamScheduler:
        """A new scheduler with a new router over these lanes; close it when the run is over.

        config: this set's configuration with another router or other scheduler settings, None = as it is.
        router: instead of the configured one; it must be new, too.
        """
        # Its supervisor is never started: the one that started the lanes keeps them up.
        return assemble(config or self.config, list(self.lanes.values()), on_result, router).scheduler


@dataclass(frozen=True, slots=True)
class Rig:
    """Sets of lanes by name, and the model that all of them load."""

    sets: Mapping[str, LaneSet]
    model: str
    tokenizer: "ChatTokenizer"
    logs: Path


@asynccontextmanager
async def live(
    configs: Mapping[str, Config],
    progress: Progress,
    lane_class: "type[VllmLane] | None" = None,
    on_outputs: "OnOutputs" = lambda _lane, _outputs: None,
) -> AsyncIterator[Rig]:
    """Bring up all lanes of all configurations at once; they are stopped at the end.

    Lanes of several sets get the set's name before their id. Raises `SetupError`, `ConfigError` and `LaneStartError`.
    """
    first = next(iter(configs.values()))
    if {config.model for config in configs.values()} != {first.model}:
        raise ConfigError("the sets of lanes must load one model, so that they are sent the same tokens")
    logs = Path(tempfile.mkdtemp(prefix="streamserve-bench-"))
    prepare_front(first.device)
    path = str(model.resolve(first.model, print))
    launcher = Launcher(first.device, logs)
    launcher.prepare()
    from streamserve.lanes.vllm.lane import VllmLane
    from streamserve.lanes.vllm.tokenizer import ChatTokenizer

    make = lane_class or VllmLane
    sets: dict[str, LaneSet] = {}
    async with AsyncExitStack() as down:
        starts = []
        for name, given in configs.items():
            config = given if len(configs) == 1 else renamed(given, name)
            plans = plan.plan(config, plan.available_cores())
            lanes = [make(each, path, config.engine, config.speculation, launcher, on_outputs) for each in plans]
            serving = assemble(config, lanes, lambda _result: None)
            down.push_async_callback(serving.aclose)
            starts.append(serving.start(progress))
            sets[name] = LaneSet(config, {lane.id: lane for lane in lanes})
        await asyncio.gather(*starts)
        yield Rig(sets, path, ChatTokenizer(path), logs)


def prepare_front(device: str) -> None:
    """Give vLLM's half in this process the environment it needs, and keep it quiet; before vLLM is imported."""
    os.environ.update({key: value for key, value in environment.shared(device).items() if key != "LD_PRELOAD"})
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
    logging.getLogger("vllm").setLevel(logging.WARNING)
    # Told at the first import of torch, to no use: a CPU build has no Triton.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)


def renamed(config: Config, name: str) -> Config:
    """The configuration with `name-` before every lane's id, in its pairs too."""
    ids = {lane.id: LaneId(f"{name}-{lane.id}") for lane in config.lanes}
    lanes = [msgspec.structs.replace(lane, id=ids[lane.id]) for lane in config.lanes]
    pairs = config.pairs
    if not isinstance(pairs, str):
        pairs = [(ids[prefill], ids[decode]) for prefill, decode in pairs]
    return msgspec.structs.replace(config, lanes=lanes, pairs=pairs)


def greedy(request_id: str, prompt_token_ids: Sequence[int], max_tokens: int, arrived_s: float, slo: Slo) -> Request:
    """A request that takes the likeliest token each time and runs to exactly this many, whatever the model says."""
    from streamserve.lanes.vllm.requests import greedy_request

    return replace(greedy_request(request_id, list(prompt_token_ids), max_tokens, arrived_s), slo=slo)


def planned(request_id: str, _number: int, each: Planned, arrived_s: float, slo: Slo) -> Request:
    """`greedy`, of an entry of a plan."""
    return greedy(request_id, each.prompt_token_ids, each.max_tokens, arrived_s, slo)


async def idle(lanes: Mapping[LaneId, Lane], limit_s: float = IDLE_LIMIT_S) -> None:
    """Wait until no lane has anything left to do. Raises `TimeoutError`, naming the busy ones."""
    # Engines report after their steps and nobody waits on a report, so this looks again and again.
    try:
        async with asyncio.timeout(limit_s):
            while _busy(lanes):
                await asyncio.sleep(IDLE_POLL_S)
    except TimeoutError as error:
        busy = ", ".join(_busy(lanes))
        raise TimeoutError(f"{busy} still busy {limit_s:g} s after the run; look into the lanes' logs") from error


def _busy(lanes: Mapping[LaneId, Lane]) -> list[LaneId]:
    snapshots = [lane.signals() for lane in lanes.values()]
    return [each.lane for each in snapshots if each.running or each.waiting or each.prefill_queued_tokens]


async def forget_prefixes(lanes: Mapping[LaneId, Lane], limit_s: float = IDLE_LIMIT_S) -> None:
    """Empty the prefix caches of idle lanes, and their drafters' memory: no run may profit from the one before it.

    Lanes that have no way into their engine are left alone. Raises `TimeoutError` when one keeps its cache.
    """
    try:
        async with asyncio.timeout(limit_s):
            for lane in lanes.values():
                await call(lane, "streamserve_forget_history")
                # An engine refuses while blocks are in use, as those are that another lane has yet to say it fetched.
                while await call(lane, "reset_prefix_cache") is False:
                    await asyncio.sleep(IDLE_POLL_S)
    except TimeoutError as error:
        raise TimeoutError(f"{lane.id} holds KV blocks {limit_s:g} s after the run; look into its log") from error


async def forget_controls(lanes: Mapping[LaneId, Lane]) -> None:
    """Have every lane decide on its depth as by default. Raises `LaneLost`."""
    for lane in lanes.values():
        with suppress(NotSpeculating):
            await lane.control(None, 0.0)


async def call(lane: Lane, method: str, *arguments: object) -> Any:
    """Run a method of the lane's engine core between two steps; None where the lane has no such way in."""
    engine_call = getattr(lane, "call", None)
    return None if engine_call is None else await engine_call(method, *arguments)
