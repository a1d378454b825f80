"""Planner: the next steps of a simulated lane, up to where its batch or what SpecuStream says may change."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import NamedTuple

from streamserve.lanes.sim.batch import Batch, Chunk
from streamserve.lanes.sim.cost import EqualSteps
from streamserve.lanes.sim.depths import Depths, Load
from streamserve.lanes.sim.drafts import NONE, Drafts
from streamserve.lanes.sim.frame import Frame
from streamserve.lanes.sim.sequence import Sequence as Running
from streamserve.lanes.sim.stretch import Stretch
from streamserve.specustream.cost import StepCostModel

LEARN_STEPS = 16
"""Steps after which the cost of another one is learned, on a lane without SpecuStream."""


UNKNOWN = -1


class Rows(NamedTuple):
    """Steps with drafts."""

    ends: list[float]
    """When each ends, in seconds of work."""
    gains: list[list[int]]
    """Per request, the tokens that it has gained after each step; some go on beyond the last."""
    drafted: list[int]
    """Draft tokens that each verifies."""


class Planner:
    """Makes up stretches.

    cost: what the lane has learned of its steps. depths: None on a lane that does not speculate.
    """

    def __init__(self, batch: Batch, frame: Frame, cost: StepCostModel, depths: Depths | None) -> None:
        self._batch = batch
        self._steps = frame.steps
        self._engine = frame.engine
        self._cost = cost
        self._drafts = frame.drafts
        self._depths = depths
        self._learn_in = 0
        self._most_steps = frame.most_steps

    def plan(self, begin: Callable[[Stretch], None]) -> Stretch | None:
        """The next stretch, started by `begin`, so that its times are known; None where there is nothing to compute."""
        decoding = self._batch.decoding()
        if self._depths is None or self._drafts is None or not decoding:
            return self._plain(decoding, begin)
        return self._drafted(decoding, self._drafts, self._depths, begin)

    def _plain(self, decoding: list[Running], begin: Callable[[Stretch], None]) -> Stretch | None:
        chunks = self._batch.prompts(self._room(len(decoding)))
        decoding = self._still(decoding)
        if not decoding and not chunks:
            return None
        count = len(decoding)
        context = sum(running.context for running in decoding)
        first_s = self._steps.decode_s(count) + self._steps.context_s(context) + self._prompt_s(chunks, count)
        steps = 1 if chunks else min(self._horizon(decoding, 1), *(each.end - each.output for each in decoding))
        stretch = Stretch(decoding, chunks, EqualSteps(steps, first_s, self._steps.context_s(count)))
        begin(stretch)
        if chunks or self._learn_in <= 0:
            self._cost.observe(stretch.first_s - stretch.start_s, stretch.prompt_tokens, count)
            self._learn_in = LEARN_STEPS
        self._learn_in -= steps
        return stretch

    def _drafted(
        self, decoding: list[Running], drafts: Drafts, depths: Depths, begin: Callable[[Stretch], None]
    ) -> Stretch | None:
        batch = self._batch
        prompt_tokens = min(batch.next_tokens, self._room(len(decoding)))
        load = Load(len(decoding), prompt_tokens, batch.cache.share, batch.preempted)
        known = depths.known(load)
        draws = [running.draft for running in decoding]
        places = [place for place, _ in draws]
        asked = depths.due() or not all(map(known.__contains__, places))
        first = depths.ask(decoding, places, load) if asked else [known[place] for place in places]
        chunks = batch.prompts(self._room(len(decoding) + sum(first)))
        if batch.preempted:
            kept = [place for place, running in enumerate(decoding) if running in batch.running]
            decoding, draws = [decoding[n] for n in kept], [draws[n] for n in kept]
            first, places = [first[n] for n in kept], [places[n] for n in kept]
        horizon = 1 if chunks else min(self._horizon(decoding, 1 + depths.max_depth), depths.steps)
        ends, gains, drafted = self._rows(decoding, first, places, known, max(1, horizon))
        if chunks:
            ends[0] += self._prompt_s(chunks, len(decoding))
        stretch = Stretch(decoding, chunks, ends, gains, drafted)
        begin(stretch)
        depths.passed(stretch.steps)
        step_s = stretch.first_s - stretch.start_s
        if asked:
            rights = [_right(running, *draw) for running, draw in zip(decoding, draws, strict=True)]
            depths.learn(decoding, places, first, rights)
            depths.specustream.step(step_s, stretch.prompt_tokens, len(decoding) + drafted[0], drafted[0])
        elif chunks:
            self._cost.observe(step_s, stretch.prompt_tokens, len(decoding) + drafted[0])
        return stretch

    def _rows(
        self, decoding: list[Running], depths: list[int], places: list[int], known: dict[int, int], steps: int
    ) -> Rows:
        """At most so many steps, up to the first that ends a request or has a draft whose depth is not known.

        Under known depths no request's steps depend on another's, so they are made up one request after the other.
        """
        verified = [0] * steps
        gains: list[list[int]] = []
        for running, place, depth in zip(decoding, places, depths, strict=True):
            gained = _walk(running, place, depth, known, steps, verified)
            gains.append(gained)
            steps = len(gained)
        drafted = verified[:steps]
        count, context = len(decoding), sum([running.context for running in decoding])
        decode_s, token_s = self._steps.table(count + max(drafted)), self._steps.context_s(1)
        # Where a prompt took the blocks of all that decoded, nobody gains anything.
        totals = map(sum, zip(*gains, strict=False)) if gains else repeat(0)
        work_s, more = 0.0, 0
        ends: list[float] = []
        for tokens, gained_by_all in zip(drafted, totals, strict=False):
            work_s += decode_s[count + tokens] + token_s * (context + more)
            ends.append(work_s)
            more = gained_by_all
        return Rows(ends, gains, drafted)

    def _room(self, decode_tokens: int) -> int:
        """Prompt tokens that a step takes beside so many decode tokens."""
        engine = self._engine
        return self._cost.cost.chunk_tokens(decode_tokens, engine.stall_s, engine.max_step_tokens - decode_tokens)

    def _prompt_s(self, chunks: Sequence[Chunk], decoding: int) -> float:
        if not chunks:
            return 0.0
        return self._steps.prompt_s([(sequence.computed, tokens) for sequence, tokens in chunks], decoding)

    def _horizon(self, decoding: list[Running], most_gain: int) -> int:
        """Steps for which there are surely blocks enough; 1 where that has to be seen step by step.

        A first token has its own instant, so it ends its stretch.
        """
        if not decoding or any(running.first for running in decoding):
            return 1
        cache = self._batch.cache
        return max(1, min(self._most_steps, (cache.free // len(decoding) - 1) * cache.block_tokens // most_gain))

    def _still(self, decoding: list[Running]) -> list[Running]:
        if not self._batch.preempted:
            return decoding
        return [running for running in decoding if running in self._batch.running]


def _walk(running: Running, kind: int, depth: int, known: dict[int, int], steps: int, verified: list[int]) -> list[int]:
    """Tokens that a request has gained after each of at most so many steps, up to the last that can be said.

    kind, depth: of the draft of its first step. What it verifies in each step is added to `verified`.
    """
    replays = running.replays
    at = start = running.at - (running.joined and not replays)
    luck = running.luck(running.target if replays else running.at + steps)
    kinds, chances = luck.places, luck.chances
    lengths, misses = running.lengths, running.misses
    left = running.end - running.output
    room = running.request.max_tokens - running.output - 1
    gained: list[int] = []
    total = 0
    for step in range(steps):
        if depth > 0:
            # Neither beyond the draft's end nor beyond the output's.
            longest, fitting = lengths[kind], room - total
            most = depth if depth < longest else longest
            most = most if most < fitting else fitting
            if most > 0:
                verified[step] += most
                right = bisect_left(misses[kind], chances[at])
                total += right if right < most else most
        total += 1
        if total >= left:
            gained.append(left)
            break
        gained.append(total)
        at = start + total if replays else at + 1
        kind = kinds[at]
        depth = known.get(kind, UNKNOWN)
        if depth == UNKNOWN:
            break
    return gained


def _right(running: Running, kind: int, chance: float) -> int:
    """How many tokens of its draft are right."""
    if kind == NONE:
        return 0
    return min(len(running.drafts[kind].tokens), bisect_left(running.misses[kind], chance))
