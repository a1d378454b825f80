"""Drafts of simulated lanes: their luck, their depth, and what they bring."""

import asyncio
from typing import Any

import numpy as np
import pytest

from streamserve.config import SpeculationConfig
from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import DraftClass
from streamserve.lanes.sim.drafts import NONE, Chain, Drafts, Luck, right
from streamserve.lanes.sim.options import LaneOptions
from streamserve.signals import DepthControl, DepthMode, LaneSignals
from tests.calibrations import example
from tests.lanes.sim.shop import Shop, request, run, tokens, uncoupled

CLASSES = example().acceptance["mix"]


def survivals(draft: DraftClass, scale: float = 1.0) -> list[float]:
    return [float(each) for each in np.cumprod([min(1.0, rate * scale) for rate in draft.acceptance])]


def mean_gain(depth: int, scale: float = 1.0) -> float:
    return 1.0 + sum(each.share * sum(survivals(each, scale)[:depth]) for each in CLASSES)


def test_luck_has_the_calibrated_shares_and_runs() -> None:
    luck = Luck(Chain(CLASSES), seed=4)
    luck.reach(60_000)
    places = np.array(luck.places)
    for place, each in enumerate(CLASSES):
        assert np.mean(places == place) == pytest.approx(each.share, abs=0.012)
    again = np.mean(places[1:][places[:-1] == 0] == 0)
    fresh = CLASSES[0].share * (1 - CLASSES[0].stay)
    whole = sum(each.share * (1 - each.stay) for each in CLASSES) + 1 - sum(each.share for each in CLASSES)
    assert again == pytest.approx(0.5 + 0.5 * fresh / whole, abs=0.012)


def test_luck_is_right_as_often_as_calibrated() -> None:
    drafts = Drafts(example(), max_depth=8, scale=1.0)
    luck = Luck(Chain(CLASSES), seed=5)
    luck.reach(60_000)
    rights = [
        right(drafts.misses("mix")[0], chance)
        for place, chance in zip(luck.places, luck.chances, strict=True)
        if place == 0
    ]
    for depth, survival in enumerate(survivals(CLASSES[0]), 1):
        assert np.mean([each >= depth for each in rights]) == pytest.approx(survival, abs=0.012)


def test_luck_is_the_seeds_alone() -> None:
    first, second, other = Luck(Chain(CLASSES), 6), Luck(Chain(CLASSES), 6), Luck(Chain(CLASSES), 7)
    first.reach(500)
    for step in range(500):
        second.reach(step)
    other.reach(500)
    assert (first.places, first.chances) == (second.places, second.chances)
    assert other.chances != first.chances
    assert NONE in first.places


def test_a_workload_that_was_not_calibrated_is_named() -> None:
    with pytest.raises(ConfigError, match="chat"):
        Drafts(example(), 8, 1.0).chain("poems")


async def many(it: Shop, control: DepthControl | None = None, **fields: Any) -> tuple[LaneSignals, int, int]:
    """Sixty requests; the signals after them, their decode steps by themselves, and their tokens."""
    if control is not None:
        await it.lanes[0].control(control, 1e6)
    asked = [request(f"{n}", 60, 200, seed=n, **fields) for n in range(60)]
    chunks = [await it.decode(each, at_s=n * 12.0) for n, each in enumerate(asked)]
    return it.lanes[0].signals(), it.lanes[0].signals().steps - 60, sum(len(tokens(each)) for each in chunks)


@pytest.mark.parametrize("depth", [1, 3, 8])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_fixed_depth_gains_what_acceptance_says(depth: int, scale: float) -> None:
    options = LaneOptions(start_s=0.0, acceptance_scale=scale)
    fixed = DepthControl(DepthMode.FIXED, depth=depth)
    signals, steps, made = run(lambda it: many(it, fixed), speculation=SpeculationConfig(), options=options)
    assert made == 60 * 200
    # The last step of a request is cut at its end.
    assert (made - 60) / steps == pytest.approx(mean_gain(depth, scale), rel=0.04)
    accepted = signals.accepted_tokens_total + 60 + steps
    assert accepted == signals.output_tokens_total


def test_depth_off_makes_one_token_a_step() -> None:
    signals, steps, made = run(lambda it: many(it, DepthControl(DepthMode.OFF)), speculation=SpeculationConfig())
    assert steps == made - 60
    assert (signals.draft_tokens_total, signals.step_output) == (0, 1.0)


def test_target_acceptance_leaves_poor_drafts_alone() -> None:
    strict, _, _ = run(
        lambda it: many(it, DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.7)), speculation=SpeculationConfig()
    )
    loose, _, _ = run(
        lambda it: many(it, DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.1)), speculation=SpeculationConfig()
    )
    share = [each.accepted_tokens_total / each.draft_tokens_total for each in (strict, loose)]
    assert share[0] > share[1] + 0.1
    assert strict.draft_tokens_total < loose.draft_tokens_total


def test_specustream_beats_every_fixed_depth_or_comes_near() -> None:
    def spent_s(control: DepthControl | None) -> float:
        async def body(it: Shop) -> float:
            if control is not None:
                await it.lanes[0].control(control, 1e6)
            asked = [request(f"{n}", 60, 200, seed=n) for n in range(48)]
            chunks = await asyncio.gather(*(it.decode(each) for each in asked))
            return max(each[-1].at_s for each in chunks)

        return float(run(body, speculation=SpeculationConfig(), calibration=uncoupled(kv_tokens=100_000)))

    best = min(spent_s(DepthControl(DepthMode.FIXED, depth=depth)) for depth in (0, 1, 2, 4, 8))
    assert spent_s(None) < 1.05 * best


def test_a_control_ends_in_the_middle_of_an_answer() -> None:
    async def body(it: Shop) -> None:
        lane = it.lanes[0]
        reading = asyncio.create_task(it.decode(request("r", 60, 400)))
        await asyncio.sleep(1.0)
        await lane.control(DepthControl(DepthMode.OFF), 2.0)
        await asyncio.sleep(0.1)
        off = lane.signals()
        await asyncio.sleep(1.5)
        still_off = lane.signals()
        await asyncio.sleep(1.5)
        on = lane.signals()
        assert off.depth == still_off.depth == DepthControl(DepthMode.OFF)
        assert on.depth == SpeculationConfig().default
        assert still_off.draft_tokens_total == off.draft_tokens_total
        assert on.draft_tokens_total > off.draft_tokens_total
        await reading

    run(body, speculation=SpeculationConfig())


def test_a_requests_own_cap_holds() -> None:
    signals, steps, made = run(lambda it: many(it, max_depth=0), speculation=SpeculationConfig())
    assert (signals.draft_tokens_total, steps) == (0, made - 60)


def test_acceptance_can_drift() -> None:
    async def body(it: Shop) -> tuple[float, float]:
        lane = it.lanes[0]
        await lane.control(DepthControl(DepthMode.FIXED, depth=4), 1e6)
        gains = []
        for scale in (1.0, 0.3):
            lane.accept(scale)
            before = lane.signals()
            for n in range(20):
                await it.decode(request(f"{scale}-{n}", 60, 200, seed=n), at_s=asyncio.get_running_loop().time())
            after = lane.signals()
            gains.append((after.output_tokens_total - before.output_tokens_total) / (after.steps - before.steps))
        return gains[0], gains[1]

    before, after = run(body, speculation=SpeculationConfig())
    assert before == pytest.approx(mean_gain(4), rel=0.06)
    assert after == pytest.approx(mean_gain(4, 0.3), rel=0.06)
