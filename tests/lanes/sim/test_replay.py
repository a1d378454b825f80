"""Exact replay: simulated requests gain what their own texts give, at any depth."""

from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.config import SpeculationConfig
from streamserve.lanes.sim.calibration import DraftClass
from streamserve.lanes.sim.drafts import NONE, Drafts, right
from streamserve.lanes.sim.fit_drafts import draft_classes, played, played_at
from streamserve.lanes.sim.replay import replayed
from streamserve.lanes.sim.work import Found, SimWork
from streamserve.signals import DepthControl, DepthMode
from streamserve.specustream.history import HistoryDrafter
from streamserve.specustream.playback import Output, loaded
from tests.calibrations import example
from tests.lanes.sim.shop import Shop, calibrated, read, request, run, uncoupled
from tests.specustream.outputs import lines

DEPTH = 8
OUTPUTS = loaded(lines(6))
NEW = partial(HistoryDrafter, 6, 4096)


def fitted() -> dict[str, tuple[DraftClass, ...]]:
    return draft_classes(played([OUTPUTS], NEW, DEPTH), DEPTH)


FOUND = replayed(OUTPUTS, [NEW()], calibrated(acceptance=fitted(), max_depth=DEPTH))


def steps_of(output: Output, found: list[Found | None], depth: int) -> int:
    at, steps = 1, 0
    while at < len(output.tokens):
        each = found[at]
        at += 1 + (0 if each is None else min(each[1], depth, len(output.tokens) - at - 1))
        steps += 1
    return steps


@pytest.mark.parametrize("depth", [0, 1, 3, 8])
def test_a_text_takes_as_many_steps_as_when_it_is_played_back(depth: int) -> None:
    drafter = NEW()
    for place, output in enumerate(OUTPUTS):
        text, steps = [*output.prompt, output.tokens[0]], 0
        while left := output.tokens[len(text) - len(output.prompt) :]:
            drafted = drafter.draft(f"{place}", text, len(output.prompt), min(depth, len(left) - 1)).tokens
            gained = next((n for n, token in enumerate(drafted) if token != left[n]), len(drafted))
            text += left[: gained + 1]
            steps += 1
        drafter.forget(f"{place}")
        assert steps_of(output, FOUND[place], depth) == steps


def test_classes_are_those_of_the_calibration() -> None:
    fresh = [(log.workload, step) for log in played_at(OUTPUTS, NEW(), DEPTH, lambda _: 0) for step in log.steps]
    drafted = np.mean([bool(step.kinds) for _, step in fresh])
    assert np.mean([each is not None for found in FOUND for each in found[1:]]) == pytest.approx(drafted, abs=0.05)
    means = [
        np.mean([each[1] for found in FOUND for each in found if each is not None and each[0] == number])
        for number in range(len(fitted()["mix"]))
    ]
    assert means == sorted(means)


drafts_of = st.lists(st.none() | st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=30)


@given(drafts_of, st.integers(0, 2**32 - 1))
def test_as_much_of_a_draft_is_right_as_was_found(found: list[Found | None], seed: int) -> None:
    drafts = Drafts(example(), DEPTH, 1.0)
    replay = drafts.replay("code", found, seed)
    misses = drafts.misses("code")
    for each, place, chance in zip(found, replay.places, replay.chances, strict=True):
        assert place == (NONE if each is None else each[0])
        if each is not None:
            assert right(misses[place], chance) == min(each[1], len(misses[place]))


@given(drafts_of, st.integers(0, 2**32 - 1), st.floats(0.1, 1.0), st.floats(0.1, 1.0))
def test_less_acceptance_makes_no_draft_better(found: list[Found | None], seed: int, one: float, other: float) -> None:
    drafts = Drafts(example(), DEPTH, 1.0)
    replay = drafts.replay("code", found, seed)
    rights = []
    for scale in (min(one, other), max(one, other)):
        drafts.scale(scale)
        misses = drafts.misses("code")
        pairs = zip(replay.places, replay.chances, strict=True)
        rights.append([right(misses[place], chance) for place, chance in pairs if place != NONE])
    assert all(less <= more for less, more in zip(*rights, strict=True))


@pytest.mark.parametrize("depth", [1, 8])
@pytest.mark.parametrize("split", [False, True])
def test_a_lane_makes_these_steps(depth: int, split: bool) -> None:
    calibration = uncoupled(acceptance=fitted(), max_depth=DEPTH)
    output, found = OUTPUTS[8], FOUND[8]
    work = SimWork(len(output.tokens), output.workload, found=found)
    made = replace(request("r", 80), max_tokens=len(output.tokens) + 1, payload=work)

    async def body(it: Shop) -> int:
        for lane in it.lanes:
            await lane.control(DepthControl(DepthMode.FIXED, depth=depth), 1e6)
        if not split:
            assert len([t for chunk in await it.decode(made) for t in chunk.token_ids]) == len(output.tokens)
            return it.lanes[0].signals().steps - 1
        first = await it.lanes[0].prefill(made)
        assert first.kv is not None
        await read(await it.lanes[1].decode(made, first.kv, first.chunk.token_ids))
        return it.lanes[1].signals().steps

    steps = run(body, lanes=2, calibration=calibration, speculation=SpeculationConfig())
    if not split:
        assert steps == steps_of(output, found, depth)
    else:
        # Nothing is drafted for the first step after a hand-over.
        assert steps == steps_of(output, [None, None, *found[2:]], depth)


def test_beyond_the_text_nothing_is_drafted() -> None:
    replay = Drafts(example(), DEPTH, 1.0).replay("mix", [None, (0, 3)], 0)
    replay.reach(4)
    assert replay.places == [NONE, 0, NONE, NONE, NONE]


def test_chances_of_a_hopeless_class_are_no_error() -> None:
    never = DraftClass(share=0.5, acceptance=(0.0, 0.0))
    calibration = msgspec.structs.replace(example(), acceptance={"mix": (never,)})
    drafts = Drafts(calibration, DEPTH, 1.0)
    assert right(drafts.misses("mix")[0], drafts.replay("mix", [(0, 2)], 0).chances[0]) == 0
