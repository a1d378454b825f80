"""Planner: the next steps of a simulated lane, up to where its batch or what SpecuStream says may change."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from streamserve.lanes.sim.batch import Batch, Chunk
from streamserve.lanes.sim.cost import EqualSteps, StepTime
from streamserve.lanes.sim.depths import Depths, Load
from streamserve.lanes.sim.drafts import NONE, Drafts
from streamserve.lanes.sim.sequence import Sequence as Running
from streamserve.lanes.sim.stretch import Stretch
from streamserve.specustream.cost import StepCostModel

LEARN_STEPS = 16
"""Steps after which the cost of another one is learned, on a lane without SpecuStream."""


UNKNOWN = -1


class Rows(NamedTuple):
    """Steps with drafts: when each ends, in seconds of work, what each request gains, what all of them verify."""

    ends: list[float]
    gains: list[list[int]]
    drafted: list[int]


class Planner:
    """Makes up stretches.

    drafts, depths: None on a lane that does not speculate. begin: starts the stretch, so that its times are known.
    """

    def __init__(
        self,
        batch: Batch,
        steps: StepTime,
        cost: StepCostModel,
        drafts: Drafts | None,
        depths: Depths | None,
        most_steps: int,
    ) -> None:
        self._batch = batch
        self._steps = steps
        self._cost = cost
        self._drafts = drafts
        self._depths = depths
        self._learn_in = 0
        self._most_steps = most_steps

    def plan(self, begin: Callable[[Stretch], None]) -> Stretch | None:
        """The next stretch, started by `begin`, so that its times are known; None where there is nothing to compute."""
        decoding = self._batch.decoding()
        if self._depths is None or self._drafts is None or not decoding:
            return self._plain(decoding, begin)
        return self._drafted(decoding, self._drafts, self._depths, begin)

    def _plain(self, decoding: list[Running], begin: Callable[[Stretch], None]) -> Stretch | None:
        chunks = self._batch.prompts(len(decoding))
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
        load = Load(len(decoding), batch.prefillable_tokens, batch.cache.share, batch.preempted)
        known = depths.known(load)
        places = [running.draft[0] for running in decoding]
        asked = depths.due() or any(place != NONE and place not in known for place in places)
        if asked:
            first = depths.ask(decoding, places, load)
        else:
            first = [known[place] if place != NONE else 0 for place in places]
        chunks = batch.prompts(len(decoding) + sum(first))
        if batch.preempted:
            kept = [place for place, running in enumerate(decoding) if running in batch.running]
            decoding = [decoding[n] for n in kept]
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
            depths.learn(decoding, places, first, [self._right(drafts, each) for each in decoding])
            depths.specustream.step(step_s, stretch.prompt_tokens, len(decoding) + drafted[0], drafted[0])
        elif chunks:
            self._cost.observe(step_s, stretch.prompt_tokens, len(decoding) + drafted[0])
        return stretch

    def _rows(
        self, decoding: list[Running], depths: list[int], places: list[int], known: dict[int, int], steps: int
    ) -> Rows:
        """At most so many steps, up to the first that ends a request or has a draft whose depth is not known."""
        assert self._drafts is not None
        walks = [_Walk(running, self._drafts.misses(running.workload), steps) for running in decoding]
        count, decode_s, token_s = len(decoding), self._steps.decode_s, self._steps.context_s(1)
        context = sum(running.context for running in decoding)
        work_s = 0.0
        rows = Rows([], [], [])
        kinds = places
        for ahead in range(steps):
            if ahead:
                kinds = [walk.places[walk.at] for walk in walks]
                depths = [known.get(kind, UNKNOWN) if kind >= 0 else 0 for kind in kinds]
                if UNKNOWN in depths:
                    break
            row: list[int] = []
            verified, ended = 0, False
            for walk, kind, most in zip(walks, kinds, depths, strict=True):
                gain = 1
                if most > 0:
                    depth = max(0, min(most, walk.lengths[kind], walk.room))
                    verified += depth
                    gain += min(depth, bisect_left(walk.misses[kind], walk.chances[walk.at]))
                if gain >= walk.left:
                    gain, ended = walk.left, True
                walk.left -= gain
                walk.room -= gain
                walk.at += 1
                row.append(gain)
            work_s += decode_s(count + verified) + token_s * context
            rows.ends.append(work_s)
            rows.gains.append(row)
            rows.drafted.append(verified)
            if ended:
                break
            context += sum(row)
        return rows

    def _right(self, drafts: Drafts, running: Running) -> int:
        kind, chance = running.draft
        if kind == NONE:
            return 0
        return min(len(running.drafts[kind].tokens), bisect_left(drafts.misses(running.workload)[kind], chance))

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


class _Walk:
    """Where one request is in the steps that are made up."""

    __slots__ = ("at", "chances", "left", "lengths", "misses", "places", "room")

    def __init__(self, running: Running, misses: list[list[float]], steps: int) -> None:
        luck = running.luck
        assert luck is not None
        luck.reach(running.step + steps)
        self.places, self.chances = luck.places, luck.chances
        self.at = running.step - running.joined
        self.misses = misses
        self.lengths = running.lengths
        self.left = running.end - running.output
        """Tokens until it ends."""
        self.room = running.request.max_tokens - running.output - 1
        """Draft tokens that could still be part of its output."""
