"""Depth on a real lane: set from outside, acting at the next step, and never changing what is generated (float32)."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import mean, stdev

import pytest
import pytest_asyncio

from streamserve.config import EMBEDDED_MODEL, EngineConfig, SpeculationConfig
from streamserve.lanes.vllm import model
from streamserve.lanes.vllm.launch import Launcher
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.protocols import Lane
from streamserve.signals import DepthControl, DepthMode
from streamserve.types import LaneId, Request

pytestmark = [pytest.mark.live, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

TOKENS = 48
BATCH = 6
SAMPLING = 10
SCHEDULES = {
    "fixed at 3": [DepthControl(DepthMode.FIXED, depth=3)],
    "fixed at 8": [DepthControl(DepthMode.FIXED, depth=8)],
    "target acceptance": [DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.3)],
    "specustream": [DepthControl(DepthMode.SPECUSTREAM)],
    "another at every step": [
        *(DepthControl(DepthMode.FIXED, depth=depth) for depth in (8, 0, 1, 5, 2)),
        DepthControl(DepthMode.OFF),
        DepthControl(DepthMode.SPECUSTREAM, price=0.0),
    ],
}

Reports = list[dict[str, object]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lane() -> AsyncIterator[Lane]:
    """One core, float32."""
    from streamserve.lanes.vllm.lane import VllmLane

    launcher = Launcher("cpu", Path(tempfile.mkdtemp(prefix="streamserve-depth-")))
    folder = str(model.resolve(EMBEDDED_MODEL, lambda _: None))
    plan = LanePlan(LaneId("lane-0"), 0, "cpu", (min(os.sched_getaffinity(0)),))
    engine = EngineConfig(dtype="float32", max_model_len=1024, kv_cache_gib=0.5)
    ready = VllmLane(plan, folder, engine, SpeculationConfig(), launcher, lambda _index, _outputs: None)
    await ready.start(lambda _lane, _stage: None)
    yield ready
    await ready.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def without(lane: Lane) -> list[list[int]]:
    """The batch's outputs at depth 0."""
    await lane.control(DepthControl(DepthMode.OFF), 60.0)
    drafted = lane.signals().draft_tokens_total
    outputs = await generate(lane)
    assert lane.signals().draft_tokens_total == drafted
    return outputs


@pytest.mark.parametrize("schedule", SCHEDULES)
async def test_depth_never_changes_the_output(lane: Lane, without: list[list[int]], schedule: str) -> None:
    controls = cycle(SCHEDULES[schedule])

    async def another() -> None:
        await lane.control(next(controls), 60.0)

    before = lane.signals()
    await another()
    outputs = await generate(lane, another if len(SCHEDULES[schedule]) > 1 else None)
    after = lane.signals()
    assert outputs == without
    assert after.draft_tokens_total > before.draft_tokens_total
    assert after.accepted_tokens_total > before.accepted_tokens_total


async def test_a_client_may_cap_the_depth_of_its_request(lane: Lane, without: list[list[int]]) -> None:
    await lane.control(DepthControl(DepthMode.FIXED, depth=8), 60.0)
    drafted = lane.signals().draft_tokens_total
    assert await read(lane, request(0, max_depth=0)) == without[0]
    assert lane.signals().draft_tokens_total == drafted


async def test_a_lane_learns_at_depth_zero(lane: Lane, without: list[list[int]]) -> None:
    """What a draft would have been worth is seen without verifying it."""
    await lane.control(DepthControl(DepthMode.OFF), 60.0)
    before = lane.signals().acceptance
    await generate(lane)
    assert without
    assert lane.signals().acceptance != before


async def test_requests_that_sample_draw_from_the_model_at_any_depth(lane: Lane, without: list[list[int]]) -> None:
    """What is drawn is as likely with drafts as without; greedy requests beside it are left alone."""
    everyone = range(SAMPLING)
    await lane.control(DepthControl(DepthMode.OFF), 60.0)
    plain = await asyncio.gather(*(likelihood(lane, number) for number in everyone))
    await lane.control(DepthControl(DepthMode.FIXED, depth=8), 60.0)
    sampling = asyncio.gather(*(likelihood(lane, number) for number in everyone))
    assert await generate(lane) == without
    drafted = await sampling
    assert sum(steps for _, steps in drafted) < sum(steps for _, steps in plain) == SAMPLING * TOKENS
    differences = [one - other for (one, _), (other, _) in zip(plain, drafted, strict=True)]
    assert abs(mean(differences)) < 7 * stdev(differences) / SAMPLING**0.5


async def test_penalties_count_the_drafts_before_a_token(lane: Lane) -> None:
    """So an output under them is the same at any depth, too."""
    asked = [request(number) for number in range(BATCH)]
    for number, one in enumerate(asked):
        sampling = one.payload.sampling_params
        sampling.repetition_penalty = 1.0 + 0.05 * number
        sampling.frequency_penalty = 0.1 * (number % 2)
    await lane.control(DepthControl(DepthMode.OFF), 60.0)
    plain = await asyncio.gather(*(read(lane, one) for one in asked))
    await lane.control(DepthControl(DepthMode.FIXED, depth=8), 60.0)
    before = lane.signals()
    assert await asyncio.gather(*(read(lane, one) for one in asked)) == plain
    assert lane.signals().accepted_tokens_total > before.accepted_tokens_total


async def likelihood(lane: Lane, number: int) -> tuple[float, int]:
    """The mean log-probability of a sampled output's tokens under the model, and in how many steps they came."""
    asked = request(number)
    sampling = asked.payload.sampling_params
    sampling.temperature, sampling.top_p, sampling.logprobs = 0.4 + 0.1 * (number % 5), 1.0 - 0.2 * (number % 2), 0
    asked = replace(asked, id=f"sampling-{number}")
    found: list[float] = []
    steps = 0
    async for chunk in await lane.decode(asked):
        steps += 1
        found.extend(chunk.output.new_logprobs.logprobs[:, 0].tolist())
    assert len(found) == TOKENS
    return mean(found), steps


async def generate(lane: Lane, after_chunk: Callable[[], Awaitable[None]] | None = None) -> list[list[int]]:
    return list(await asyncio.gather(*(read(lane, request(number), after_chunk) for number in range(BATCH))))


async def read(lane: Lane, asked: Request, after_chunk: Callable[[], Awaitable[None]] | None = None) -> list[int]:
    tokens: list[int] = []
    async for chunk in await lane.decode(asked):
        tokens.extend(chunk.token_ids)
        if after_chunk is not None:
            await after_chunk()
    return tokens


def request(number: int, max_depth: int | None = None) -> Request:
    """Text that repeats itself, each with a pace of its own, so that drafts are often but not always right."""
    from streamserve.lanes.vllm.requests import greedy_request

    return greedy_request(f"depth-{number}", prompt(number), TOKENS, max_depth=max_depth)


def prompt(number: int) -> Sequence[int]:
    phrase = [1000 + 37 * number + 11 * i for i in range(5 + 2 * number)]
    return phrase * 4
