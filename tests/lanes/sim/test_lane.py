"""What requests see on a simulated lane."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.clock import now
from streamserve.config import SpeculationConfig
from streamserve.errors import LaneLost, LaneStartError, NotSpeculating, ServeError
from streamserve.lanes.sim.options import LaneOptions
from streamserve.signals import DepthControl
from streamserve.types import Finish, LaneState
from tests.calibrations import example
from tests.fakes import make_request
from tests.lanes.sim.reference import Job, serve
from tests.lanes.sim.shop import PLAIN, Shop, calibrated, read, request, run, shop, tokens, uncoupled

JOBS = st.lists(
    st.tuples(st.integers(0, 5000).map(lambda ms: ms / 1000), st.integers(2, 600), st.integers(1, 40)),
    min_size=1,
    max_size=12,
    unique_by=lambda job: job[0],
)


@settings(max_examples=40, deadline=None)
@given(jobs=JOBS, max_running=st.integers(1, 6), max_step_tokens=st.sampled_from([64, 300, 2048]))
def test_strides_come_to_the_same_instants_as_single_steps(
    jobs: list[tuple[float, int, int]], max_running: int, max_step_tokens: int
) -> None:
    calibration = uncoupled(kv_tokens=200_000)
    expected = [Job(*job) for job in jobs]
    serve(expected, calibration.step, max_running, max_step_tokens)

    async def body(it: Shop) -> None:
        asked = [request(f"{n}", prompt, output) for n, (_, prompt, output) in enumerate(jobs)]
        await asyncio.gather(*(it.decode(each, at_s=job[0]) for each, job in zip(asked, jobs, strict=True)))

    it = shop(calibration=calibration, max_running=max_running, max_step_tokens=max_step_tokens)
    run(body, it)
    for place, job in enumerate(expected):
        chunks = it.seen[str(place)]
        assert len(tokens(chunks)) == job.output
        assert chunks[0].at_s == pytest.approx(job.first_s, abs=1e-9)
        assert chunks[-1].at_s == pytest.approx(job.last_s, abs=1e-9)


@pytest.mark.parametrize("speculation", [PLAIN, SpeculationConfig()], ids=["plain", "drafts"])
def test_a_prompt_that_is_cut_lets_decodes_end_before_it(speculation: SpeculationConfig) -> None:
    """And costs the steps that it is cut into: more than one piece would, but not much."""
    decoded_s: dict[float | None, float] = {}
    prompt_s: dict[float | None, float] = {}
    for stall_s in (None, 0.25):

        async def body(it: Shop) -> Any:
            prompt = it.decode(request("prompt", 1500, 2), at_s=0.1)
            return await asyncio.gather(it.decode(request("decodes", 50, 4, max_depth=0)), prompt)

        it = shop(calibration=uncoupled(kv_tokens=200_000), speculation=speculation, stall_s=stall_s)
        decoded, prompt = run(body, it)
        decoded_s[stall_s], prompt_s[stall_s] = decoded[-1].at_s, prompt[-1].at_s
    assert decoded_s[None] > 1.2
    assert decoded_s[0.25] < 0.1 + 0.04 + 3 * 0.26
    assert prompt_s[None] < prompt_s[0.25] < 1.3 * prompt_s[None]


def test_an_isolated_request_takes_what_the_cost_model_says() -> None:
    step = example().step
    prompt, output = 200, 50
    prefill_s = step.prompt_s + step.prompt_token_s * prompt + step.attention_s * prompt * prompt / 2
    contexts = range(prompt + 1, prompt + output)
    decode_s = sum(step.decode_s[0][1] + step.context_token_s * context for context in contexts)

    async def body(it: Shop) -> Any:
        await asyncio.sleep(1.0)
        stream = await it.lanes[0].decode(request("alone", prompt, output))
        return [(chunk, now()) async for chunk in stream]

    received = run(body, calibration=calibrated())
    chunks = [chunk for chunk, _ in received]
    front = example().front
    assert chunks[0].at_s == pytest.approx(1.0 + front.submit_s + prefill_s)
    assert chunks[-1].at_s == pytest.approx(chunks[0].at_s + decode_s)
    # As vLLM has it: stamped at the step's end, and read after the way back.
    assert [at_s - chunk.at_s for chunk, at_s in received] == pytest.approx([front.return_s] * len(received))
    assert chunks[-1].finish is Finish.STOP


@pytest.mark.parametrize(
    ("output", "max_tokens", "finish"), [(5, 5, Finish.LENGTH), (9, 5, Finish.LENGTH), (4, 5, Finish.STOP)]
)
def test_a_request_ends_by_itself_or_at_its_most_tokens(output: int, max_tokens: int, finish: Finish) -> None:
    async def body(it: Shop) -> Any:
        return await it.decode(request("ends", 30, output, max_tokens=max_tokens))

    chunks = run(body)
    assert len(tokens(chunks)) == min(output, max_tokens)
    assert chunks[-1].finish is finish


def test_lanes_that_work_at_once_slow_each_other_down() -> None:
    async def body(it: Shop, lanes: int) -> Any:
        return await asyncio.gather(*(it.decode(request(f"{n}", 100, 400), lane=n) for n in range(lanes)))

    alone = run(lambda it: body(it, 1), lanes=2, calibration=uncoupled(coupling=(1.0, 1.5)))
    both = run(lambda it: body(it, 2), lanes=2, calibration=uncoupled(coupling=(1.0, 1.5)))
    # Its first step had begun when the other lane got work.
    assert both[0][-1].at_s == pytest.approx(1.5 * alone[0][-1].at_s, abs=0.05)


def test_a_lane_that_stops_working_gives_the_other_its_speed_back_at_the_next_step() -> None:
    async def body(it: Shop) -> Any:
        return await asyncio.gather(it.decode(request("long", 100, 400)), it.decode(request("short", 100, 40), lane=1))

    long, short = run(body, lanes=2, calibration=uncoupled(coupling=(1.0, 1.5)))
    alone = run(lambda it: it.decode(request("long", 100, 400)), calibration=uncoupled())
    slowed_s = short[-1].at_s * (1 - 1 / 1.5)
    assert long[-1].at_s == pytest.approx(alone[-1].at_s + slowed_s, abs=0.03)


@pytest.mark.parametrize("speed", [0.5, 4.0])
def test_speed_divides_every_step(speed: float) -> None:
    normal = run(lambda it: it.decode(request("r")))
    changed = run(lambda it: it.decode(request("r")), options=LaneOptions(speed=speed, start_s=0.0))
    assert changed[-1].at_s == pytest.approx(normal[-1].at_s / speed)


def test_a_change_of_speed_counts_from_the_next_step() -> None:
    async def body(it: Shop) -> Any:
        reading = asyncio.create_task(it.decode(request("r", 100, 101)))
        await asyncio.sleep(2.0)
        it.lanes[0].change_speed(2.0)
        return await reading

    plain = run(lambda it: it.decode(request("r", 100, 101)))
    faster = run(body)
    assert faster[-1].at_s == pytest.approx(2.0 + (plain[-1].at_s - 2.0) / 2, abs=0.03)


def test_an_abort_ends_with_the_step_in_flight_and_frees_everything() -> None:
    async def body(it: Shop) -> None:
        stream = await it.lanes[0].decode(request("gone", 300, 500))
        await stream.__anext__()
        await asyncio.sleep(1.0)
        await stream.aclose()
        await asyncio.sleep(0.05)
        assert it.empty()

    run(body)


def test_a_lane_that_fails_gives_out_what_it_made_and_raises() -> None:
    async def body(it: Shop) -> None:
        stream = await it.lanes[0].decode(request("doomed", 100, 500))
        chunks = [await stream.__anext__()]
        await asyncio.sleep(2.0)
        before = it.lanes[0].signals()
        it.lanes[0].fail("power cut")
        assert await it.lanes[0].lost() == "power cut"
        with pytest.raises(LaneLost, match="power cut") as caught:
            while True:
                chunks.append(await stream.__anext__())
        assert caught.value.lane == "lane-0"
        assert len(tokens(chunks)) == before.output_tokens_total
        gone = it.lanes[0].signals()
        assert (gone.state, gone.error, gone.running, gone.kv_used) == (LaneState.LOST, "power cut", 0, 0.0)

    run(body)


def test_a_restart_takes_its_time_and_its_cache_is_empty() -> None:
    async def body(it: Shop) -> None:
        lane = it.lanes[0]
        warm = await it.decode(request("a", range(500)))
        lane.fail("crash")
        failed_s = now()
        await lane.start(lambda _lane, _stage: None)
        assert now() == pytest.approx(failed_s + 3.0)
        assert lane.signals().restarts == 1
        assert lane.signals().output_tokens_total == len(tokens(warm))
        begun_s = now()
        cold = await it.decode(request("b", range(500)), at_s=begun_s)
        assert cold[0].at_s - begun_s == pytest.approx(warm[0].at_s - 3.0)

    run(body, options=LaneOptions(start_s=3.0))


def test_a_lane_can_die_while_it_starts() -> None:
    async def body(it: Shop) -> None:
        lane = it.lanes[0]
        lane.fail("first")
        starting = asyncio.create_task(lane.start(lambda _lane, _stage: None))
        await asyncio.sleep(1.0)
        lane.fail("second")
        with pytest.raises(LaneStartError, match="second"):
            await starting
        assert lane.signals().state is LaneState.LOST

    run(body, options=LaneOptions(start_s=3.0))


def test_a_lane_that_drafts_nothing_has_no_depth() -> None:
    async def body(it: Shop) -> None:
        assert it.lanes[0].signals().depth is None
        with pytest.raises(NotSpeculating):
            await it.lanes[0].control(DepthControl(), 1.0)

    run(body)


def test_a_request_that_can_never_fit_is_refused() -> None:
    async def body(it: Shop) -> None:
        with pytest.raises(ServeError, match="KV"):
            await it.lanes[0].decode(request("huge", 20_000, 10))
        with pytest.raises(TypeError, match="SimWork"):
            await it.lanes[0].decode(make_request("bare"))
        assert it.empty()

    run(body)


def test_output_is_the_same_on_every_lane() -> None:
    async def body(it: Shop) -> None:
        here = await it.decode(request("r", 100, 10), lane=0)
        there = await it.decode(request("r", 100, 10), lane=1, at_s=now(), sent=tokens(here)[:4])
        assert tokens(here)[4:] == tokens(there)
        assert await read(await it.lanes[0].decode(request("other", 100, 10))) != here

    run(body, lanes=2)
