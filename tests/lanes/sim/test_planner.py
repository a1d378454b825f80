"""Planner: the steps that it makes up at once are those of walking all requests step by step."""

from bisect import bisect_left
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.lanes.sim.batch import Batch
from streamserve.lanes.sim.cache import Cache
from streamserve.lanes.sim.cost import StepTime
from streamserve.lanes.sim.drafts import NONE, Drafts
from streamserve.lanes.sim.frame import Frame
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.planner import Planner, Rows
from streamserve.lanes.sim.sequence import Sequence, work_of
from streamserve.specustream.cost import StepCostModel
from tests.calibrations import example
from tests.lanes.sim.shop import request

STEPS = StepTime(example().step)


def frame(drafts: Drafts) -> Frame:
    host = Host(example(), np.random.default_rng(0), False)
    return Frame(example(), host, EngineConfig(), SpeculationConfig(), STEPS, drafts, None, 512)


def running(random: Random, drafts: Drafts, number: int) -> Sequence:
    """A request somewhere in its output."""
    output = random.randint(2, 40)
    capped = random.choice([None, None, 0, 2])
    made = request(f"r{number}", random.randint(1, 300), output, seed=number, max_depth=capped)
    if random.random() < 0.5:
        found = [random.choice([None, (random.randrange(3), random.randrange(9))]) for _ in range(output)]
        made = replace(made, payload=replace(work_of(made), found=found))
    it = Sequence(made, False, None, range(random.randrange(1, output)))
    it.speculates(drafts)
    it.joined = random.random() < 0.2
    return it


def draft(it: Sequence, step: int, gained: int) -> tuple[int, float]:
    """Class and chance of a later step, when the request has gained so many tokens."""
    if step == 0 and it.joined:
        return NONE, 0.0
    at = it.output + gained if it.replays else it.at - it.joined + step
    luck = it.luck(at)
    return luck.places[at], luck.chances[at]


def step_by_step(batch: list[Sequence], first: list[int], known: dict[int, int], steps: int) -> Rows:
    ends: list[float] = []
    rows: list[list[int]] = []
    drafted: list[int] = []
    gained, work_s = [0] * len(batch), 0.0
    for step in range(steps):
        row, verified = [], 0
        drawn = [draft(it, step, more) for it, more in zip(batch, gained, strict=True)]
        classes = [each for each, _ in drawn]
        if step and any(each not in known for each in classes):
            break
        context = sum(it.context for it in batch) + sum(gained)
        for place, (it, each) in enumerate(zip(batch, classes, strict=True)):
            asked = known[each] if step else first[place]
            room = it.request.max_tokens - it.output - gained[place] - 1
            depth = 0 if each == NONE else max(0, min(asked, it.lengths[each], room))
            made = 1 + (min(depth, bisect_left(it.misses[each], drawn[place][1])) if depth else 0)
            made = min(made, it.end - it.output - gained[place])
            verified += depth
            gained[place] += made
            row.append(gained[place])
        work_s += STEPS.decode_s(len(batch) + verified) + STEPS.context_s(1) * context
        ends.append(work_s)
        rows.append(row)
        drafted.append(verified)
        if any(it.output + more >= it.end for it, more in zip(batch, gained, strict=True)):
            break
    return Rows(ends, [list(each) for each in zip(*rows, strict=True)] if batch else [], drafted)


def test_a_full_batch_takes_up_nobody_who_waits() -> None:
    batch = Batch(Cache(10**6, 16), 1, lambda _: None)
    for name in "ab":
        batch.add(Sequence(request(name, prompt=100), False, None, ()))
    assert batch.next_tokens == batch.queued_tokens == 200
    assert [tokens for _, tokens in batch.prompts(60)] == [60]
    assert (batch.queued_tokens, batch.next_tokens) == (140, 40)


@pytest.mark.parametrize("seed", range(40))
def test_steps_made_up_request_by_request_are_those_made_up_step_by_step(seed: int) -> None:
    random = Random(seed)
    drafts = Drafts(example(), 8, 1.0)
    batch = [running(random, drafts, number) for number in range(random.randint(0, 6))]
    known = {NONE: 0} | {place: random.randint(0, 8) for place in range(3) if random.random() < 0.9}
    places = [it.draft[0] for it in batch]
    first = [0 if place == NONE else random.randint(0, 8) for place in places]
    steps = random.randint(1, 16) if batch else 1
    planner = Planner(Batch(Cache(10**6, 16), 64, lambda _: None), frame(drafts), StepCostModel(), None)
    made = planner._rows(batch, first, places, known, steps)
    expected = step_by_step(batch, first, known, steps)
    assert made._replace(gains=[gained[: len(made.ends)] for gained in made.gains]) == expected
