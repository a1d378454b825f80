"""Depths of a simulated lane: SpecuStream itself, asked at some of the steps, its answers kept for those between."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from streamserve.lanes.sim.drafts import NONE, Drafts
from streamserve.lanes.sim.sequence import Sequence as Running
from streamserve.signals import DepthControl
from streamserve.specustream.cost import StepCostModel
from streamserve.specustream.specustream import RunningDraft, SpecuStream

MOST_STEPS = 16
"""Steps of a stretch, and about as many between two questions, while the answers stay the same."""
LEARNING_QUESTIONS = 64
"""So many first steps are all asked about: that is when SpecuStream learns most."""
SAME = 1
"""Depths this near to one another count as the same answer."""
EXACT_BATCH = 8
"""Answers are kept apart by the number of requests up to this many; above, neighbours share them."""
LONGEST = 65
UNKNOWN = -1


class Load(NamedTuple):
    """What a question about depths depends on besides the drafts."""

    decoding: int
    queued_tokens: int
    """Prompt tokens that the step may compute."""
    kv_used: float
    preempted: bool


class Depths:
    """Depth of each draft of a step.

    An answer is remembered per batch size, queued prompt tokens (by powers of two) and class of draft. A surprising
    answer is believed once it repeats: SpecuStream takes single steps without drafts to see what those cost.
    """

    def __init__(
        self,
        default: DepthControl,
        max_depth: int,
        drafts: Drafts,
        clock: Callable[[], float],
        cost: StepCostModel,
    ) -> None:
        self.specustream = SpecuStream(default, max_depth, clock, drafts.guesses or None, cost)
        self.max_depth = max_depth
        self._remembered: dict[tuple[int, int], dict[int, int]] = {}
        self._pause = 1
        self._due_in = 0
        self._questions = 0
        self._surprised = False

    def set_control(self, control: DepthControl | None, ttl_s: float) -> None:
        """As `SpecuStream.set_control`."""
        self.specustream.set_control(control, ttl_s)
        self.forget_answers()

    def forget_answers(self) -> None:
        """The control has changed."""
        self._remembered.clear()
        self._due_in, self._pause = 0, 1

    def known(self, load: Load) -> dict[int, int]:
        """Class -> depth under this load, as far as it is remembered."""
        return self._remembered.setdefault(_key(load), {NONE: 0})

    def due(self) -> bool:
        """Whether the next step must be asked about."""
        return self._due_in <= 0

    @property
    def steps(self) -> int:
        """Steps that may be made up at once: more while answers stay the same."""
        return self._pause

    def passed(self, steps: int) -> None:
        """So many steps were made."""
        self._due_in -= steps

    def ask(self, batch: Sequence[Running], places: Sequence[int], load: Load) -> list[int]:
        """The depth of each request's draft, of these classes, in the step that begins."""
        caps = [running.cap for running in batch]
        drafts = {
            running.id: RunningDraft(running.drafts[place], cap)
            for running, place, cap in zip(batch, places, caps, strict=True)
            if place != NONE
        }
        decided = self.specustream.decide(drafts, load.decoding, load.queued_tokens, load.kv_used, load.preempted)
        self._questions += 1
        depths = [decided[running.id] if place != NONE else 0 for running, place in zip(batch, places, strict=True)]
        self._remember(places, depths, caps, self.known(load))
        return depths

    def learn(
        self, batch: Sequence[Running], places: Sequence[int], depths: Sequence[int], rights: Sequence[int]
    ) -> None:
        """What came of the step asked about last. rights: how many tokens of each draft were right."""
        observe = self.specustream.observe
        for running, place, depth, right in zip(batch, places, depths, rights, strict=True):
            if place != NONE:
                observe(running.id, ONES[depth + 1] if right > depth else WRONG[right])

    def _remember(
        self, places: Sequence[int], depths: Sequence[int], caps: Sequence[int], remembered: dict[int, int]
    ) -> None:
        surprise = False
        for place, depth, cap in zip(places, depths, caps, strict=True):
            if place == NONE:
                continue
            before = remembered.get(place, UNKNOWN)
            if depth >= cap:
                # Its own cap says only that it would go at least as deep.
                remembered[place] = max(before, depth)
                continue
            differs = before != UNKNOWN and abs(depth - before) > SAME
            surprise |= differs
            if not differs or self._surprised:
                remembered[place] = depth
        self._surprised = surprise
        learning = surprise or self._questions < LEARNING_QUESTIONS
        self._pause = 1 if learning else min(MOST_STEPS, 2 * self._pause)
        self._due_in = self._pause


ONES = [(1,) * length for length in range(LONGEST + 1)]
"""Tokens gained where all that were verified were right, and the next of the draft was as well."""
WRONG = [(*(1,) * length, 2) for length in range(LONGEST + 1)]
"""Tokens gained where the first so many of the draft were right."""


def _key(load: Load) -> tuple[int, int]:
    decoding = load.decoding
    if decoding > EXACT_BATCH:
        grain = max(1, 1 << (decoding.bit_length() - 3))
        decoding = decoding // grain * grain
    return decoding, load.queued_tokens.bit_length()
