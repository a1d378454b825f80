"""Laws of a simulated lane: nothing is lost, nothing is early, queues are as long as theory says."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.clock import now
from streamserve.config import SpeculationConfig
from streamserve.lanes.sim.options import LaneOptions
from streamserve.types import Chunk, Finish, Request
from tests.calibrations import example
from tests.lanes.sim.shop import PLAIN, Shop, calibrated, read, request, run, shop, tokens, uncoupled

HISTORY = SpeculationConfig()
VISITS = st.lists(
    st.tuples(
        st.integers(0, 4000),
        st.integers(1, 700),
        st.integers(1, 60),
        st.sampled_from(["one", "two", "abort", "plain two"]),
    ),
    min_size=1,
    max_size=14,
    unique_by=lambda visit: visit[0],
)


async def visit(it: Shop, request: Request, how: str, at_s: float) -> list[Chunk]:
    """A request on one lane or on two, read to its end or left in the middle."""
    await asyncio.sleep(at_s - now())
    first, second = it.lanes
    if how == "one":
        return await read(await first.decode(request))
    if how == "abort":
        stream = await first.decode(request)
        await asyncio.sleep(0.3)
        await stream.aclose()
        return []
    if how == "plain two":
        request = replace(request, continuable=False)
    prefilled = await first.prefill(request)
    if prefilled.kv is None:
        return [prefilled.chunk]
    sent = prefilled.chunk.token_ids if request.continuable else ()
    stream = await second.decode(request, prefilled.kv, sent)
    rest = await read(stream)
    return [prefilled.chunk, *rest] if request.continuable else rest


@settings(max_examples=40, deadline=None)
@given(visits=VISITS, kv_tokens=st.sampled_from([1024, 1536, 20_000]), drafted=st.booleans(), noise=st.booleans())
def test_every_request_ends_once_in_order_and_leaves_nothing(
    visits: list[tuple[int, int, int, str]], kv_tokens: int, drafted: bool, noise: bool
) -> None:
    made = shop(2, calibrated(kv_tokens=kv_tokens), HISTORY if drafted else PLAIN, noise=noise)

    async def body(it: Shop) -> list[list[Chunk]]:
        asked = [request(f"{n}", prompt, output) for n, (_, prompt, output, _) in enumerate(visits)]
        ends = [visit(it, each, how, at / 1000) for each, (at, _, _, how) in zip(asked, visits, strict=True)]
        seen = await asyncio.wait_for(asyncio.gather(*ends), 10_000)
        await asyncio.sleep(1.0)
        assert it.empty()
        return seen

    for (at, _, output, how), chunks in zip(visits, run(body, made), strict=True):
        if how == "abort":
            continue
        instants = [chunk.at_s for chunk in chunks]
        assert instants == sorted(instants)
        assert instants[0] > at / 1000
        assert len(tokens(chunks)) == output
        assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish is Finish.STOP


def test_the_same_seed_gives_the_same_log() -> None:
    def log() -> list[Any]:
        async def body(it: Shop) -> Any:
            rng = np.random.default_rng(3)
            visits = [
                visit(it, request(f"{n}", int(rng.integers(50, 400)), 30), ("one", "two")[n % 2], n * 0.4)
                for n in range(30)
            ]
            return await asyncio.gather(*visits), [lane.signals() for lane in it.lanes]

        signals: list[Any] = run(body, lanes=2, calibration=example(), speculation=HISTORY, noise=True)
        return signals

    assert log() == log()


def test_a_queue_of_equal_prompts_waits_as_pollaczek_and_khinchine_say() -> None:
    load, served = 0.6, 3000
    step = example().step
    prompt = 200
    service_s = step.prompt_s + step.prompt_token_s * prompt + step.attention_s * prompt * prompt / 2
    arrivals = np.cumsum(np.random.default_rng(5).exponential(service_s / load, served))

    async def body(it: Shop) -> Any:
        visits = [it.decode(request(f"{n}", prompt, 1), at_s=at_s) for n, at_s in enumerate(arrivals.tolist())]
        return await asyncio.gather(*visits)

    # One at a time: neither batches nor the cache may help.
    chunks = run(body, max_running=1, calibration=uncoupled(block_tokens=1024))
    waits = [each[0].at_s - at_s - service_s for each, at_s in zip(chunks, arrivals.tolist(), strict=True)]
    assert min(waits) > -1e-9
    assert np.mean(waits) == pytest.approx(load / (2 * (1 - load)) * service_s, rel=0.08)


def test_a_lane_without_blocks_preempts_the_youngest_and_computes_it_anew() -> None:
    async def body(it: Shop) -> Any:
        both = await asyncio.gather(
            it.decode(request("old", 250, 200)),
            it.decode(request("young", 250, 200), at_s=0.01),
        )
        return both, it.lanes[0]._core.batch.preemptions  # type: ignore[union-attr]

    (old, young), preemptions = run(body, calibration=uncoupled(kv_tokens=6 * 128))
    (alone, _), none = run(body, calibration=uncoupled())
    assert (preemptions, none) == (1, 0)
    assert tokens(young) != tokens(old)
    assert len(tokens(young)) == len(tokens(old)) == 200
    assert young[-1].at_s > old[-1].at_s + 2
    assert old[-1].at_s <= alone[-1].at_s + 1e-9


def test_a_cached_prefix_shortens_the_time_to_first_token() -> None:
    async def body(it: Shop) -> Any:
        first = await it.decode(request("first", range(600), 2))
        begun_s = now()
        second = await it.decode(request("second", [*range(512), *range(9000, 9088)], 2), at_s=begun_s)
        return first[0].at_s, second[0].at_s - begun_s, it.lanes[0].signals()

    cold_s, warm_s, signals = run(body)
    step = example().step
    assert cold_s - warm_s == pytest.approx(512 * step.prompt_token_s, rel=0.01)
    assert signals.prefix_hit == pytest.approx(512 / 1200)
    assert signals.prompt_tokens_total == 600 + 88


def test_a_hand_off_takes_the_transfer_and_frees_the_prefill_lane() -> None:
    prompt = 300

    async def body(it: Shop) -> Any:
        first, second = it.lanes
        asked = request("pair", prompt, 20)
        prefilled = await first.prefill(asked)
        done_s = now()
        await asyncio.sleep(1.0)
        assert first.signals().kv_used == pytest.approx(3 / (20_000 // 128))
        handed_s = now()
        stream = await second.decode(asked, prefilled.kv, prefilled.chunk.token_ids)
        chunk = await stream.__anext__()
        assert first.signals().kv_used == 0
        await read(stream)
        return done_s, handed_s, chunk, second.signals()

    _, handed_s, chunk, signals = run(body, lanes=2, calibration=calibrated(coupling=(1.0,)))
    calibration = example()
    transfer_s = calibration.transfer.base_s + calibration.transfer.token_s * prompt
    step_s = calibration.step.decode_s[0][1] + calibration.step.context_token_s * (prompt + 1)
    assert chunk.at_s - handed_s == pytest.approx(transfer_s + step_s)
    assert signals.transfers_total == 1
    assert signals.transfer_s.fast_s == pytest.approx(transfer_s)
    assert signals.prompt_tokens_total == 0


def test_kv_that_nobody_fetches_is_freed_in_the_end() -> None:
    async def body(it: Shop) -> Any:
        await it.lanes[0].prefill(request("forgotten", 700, 20))
        chunks = await it.decode(request("waits", 700, 20), at_s=1.0)
        return chunks[0].at_s

    assert run(body, calibration=uncoupled(kv_tokens=1024)) == pytest.approx(480.5, abs=1.5)


def test_released_kv_lets_those_in_at_once_who_waited_for_it() -> None:
    async def body(it: Shop) -> Any:
        lane = it.lanes[0]
        prefilled = await lane.prefill(request("held", 500, 20))
        assert prefilled.kv is not None
        long = asyncio.create_task(it.decode(request("long", 100, 150), at_s=1.0))
        waits = asyncio.create_task(it.decode(request("waits", 300, 2), at_s=1.5))
        await asyncio.sleep(2.0)
        assert lane.signals().waiting == 1
        released_s = now()
        await lane.release(prefilled.kv)
        first = (await waits)[0].at_s
        await long
        return first - released_s

    assert run(body, calibration=uncoupled(kv_tokens=6 * 128)) < 0.5


def test_kv_of_a_dead_lane_is_computed_anew() -> None:
    async def body(it: Shop) -> Any:
        first, second = it.lanes
        asked = request("orphan", 300, 10)
        prefilled = await first.prefill(asked)
        first.fail("gone")
        chunks = await read(await second.decode(asked, prefilled.kv, prefilled.chunk.token_ids))
        return tokens(chunks), second.signals()

    rest, signals = run(body, lanes=2)
    assert len(rest) == 9
    assert signals.prompt_tokens_total == 301
    assert signals.transfers_total == 0


def test_signals_advance_within_a_stretch_and_stay_the_same_object_within_a_step() -> None:
    async def body(it: Shop) -> None:
        lane = it.lanes[0]
        reading = asyncio.create_task(it.decode(request("r", 100, 300)))
        await asyncio.sleep(1.0)
        before = lane.signals()
        assert lane.signals() is before
        await asyncio.sleep(1.0)
        after = lane.signals()
        assert before.running == after.running == 1
        assert after.steps - before.steps == pytest.approx(1.0 / 0.04, abs=1)
        assert after.output_tokens_total - before.output_tokens_total == after.steps - before.steps
        assert after.kv_used >= before.kv_used > 0
        assert 1.9 < after.at_s <= 2.0
        assert after.device.cpu_cores == pytest.approx(1.0)
        await reading
        idle = lane.signals()
        assert (idle.running, idle.kv_used) == (0, 0.0)
        assert idle.step_s == pytest.approx(0.04, rel=0.02)

    run(body)


@pytest.mark.parametrize("staleness_s", [0.5, 2.0])
def test_stale_signals_are_those_of_a_while_ago(staleness_s: float) -> None:
    async def watched(it: Shop) -> list[tuple[float, int, int]]:
        seen = []
        visits = [asyncio.create_task(it.decode(request(f"{n}", 200, 60), at_s=n * 0.5)) for n in range(6)]
        for _ in range(24):
            await asyncio.sleep(0.25)
            signals = it.lanes[0].signals()
            seen.append((now(), signals.steps, signals.running))
        await asyncio.gather(*visits)
        return seen

    fresh = {at_s: rest for at_s, *rest in run(watched)}
    stale = {at_s: rest for at_s, *rest in run(watched, options=LaneOptions(start_s=0.0, staleness_s=staleness_s))}
    for at_s, (steps, _) in stale.items():
        then = fresh.get(at_s - staleness_s, [0, 0])
        assert steps <= fresh[at_s][0]
        assert steps == pytest.approx(then[0], abs=14)


def test_staleness_keeps_the_state_fresh() -> None:
    async def body(it: Shop) -> None:
        await it.decode(request("r", 100, 30))
        it.lanes[0].fail("gone")
        assert it.lanes[0].signals().error == "gone"

    run(body, options=LaneOptions(start_s=0.0, staleness_s=1.0))
