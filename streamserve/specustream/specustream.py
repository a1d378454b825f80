"""SpecuStream: the decisions of one lane about how deep its requests speculate, and what it learns from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamserve.signals import DepthControl, DepthMode, StepCost
from streamserve.specustream.acceptance import Acceptance
from streamserve.specustream.cost import StepCostModel
from streamserve.specustream.draft import NO_DRAFT, Draft
from streamserve.specustream.guard import GoodputGuard
from streamserve.specustream.rule import fixed_depths, goodput_depths, static_depth, target_depths

FEW_OBSERVATIONS = 32
"""Below, the lane's acceptance is a guess and no request goes deeper than `FEW_DEPTH`."""
FEW_DEPTH = 4
FEW_BUCKETS = 3
"""Below, the cost of a step is a guess and depth follows the number of requests, for at most `STATIC_STEPS`."""
STATIC_STEPS = 64
KV_FULL = 0.95
PREEMPTED_STEPS = 16
"""Steps without speculation after a preemption: drafts take KV that the preempted request needs."""
PLAIN_AGE = 256
"""Steps after which a step without drafts is taken to see what it costs: all gains are measured against that."""
PLAIN_EVERY = 32
"""Steps between two such steps, in case the first taught nothing."""
GUESSES = (0.45, 0.55, 0.6)
"""Acceptance of positions 1, 2, 3 and all after, before anything was observed."""
POSITION_RATE = 0.02
"""Weight of a new draft in the moving average of a position's acceptance."""
OUTPUT_RATE = 0.05
"""Weight of a new step in the moving average of tokens gained."""


Kinds = Mapping[str, Sequence[int]]
"""Per request, the kind of each draft token that it may be given."""


class RunningDraft(NamedTuple):
    """What was drafted for a running request, and the deepest that it may go; None = no cap of its own."""

    draft: Draft
    max_depth: int | None = None


@dataclass(slots=True)
class _Step:
    """The step that was decided last, until it is settled."""

    decoding: int
    prefill_tokens: int
    mode: DepthMode
    accepted_tokens: int = 0
    step_s: float = 0.0
    draft_tokens: int = 0


def validated(control: DepthControl) -> DepthControl:
    """The same control. Raises `ValueError` if a number in it is not finite or out of its range."""
    if control.depth < 0:
        raise ValueError(f"depth must be 0 or more, got {control.depth}")
    if not 0 <= control.target <= 1:
        raise ValueError(f"target must be a probability from 0 to 1, got {control.target}")
    if not (math.isfinite(control.price) and control.price >= 0):
        raise ValueError(f"price must be a finite number, 0 or more, got {control.price}")
    if control.max_depth is not None and control.max_depth < 0:
        raise ValueError(f"max_depth must be 0 or more, or none, got {control.max_depth}")
    return control


class SpecuStream:
    """Decides each step's depths under a control that may change at any time and expires.

    Per step: `decide`, then `observe` for each request that gained tokens, and `step`, in either order.
    default: the control without any other. max_depth: the deepest that the lane drafts. clock: seconds. guesses: per
    kind of draft token its acceptance before any was observed; None = the kinds are positions. cost: what is known of
    steps already.
    """

    def __init__(
        self,
        default: DepthControl,
        max_depth: int,
        clock: Callable[[], float],
        guesses: Sequence[float] | None = None,
        cost: StepCostModel | None = None,
    ) -> None:
        self._default = validated(default)
        self._max_depth = max_depth
        self._clock = clock
        self._set: DepthControl | None = None
        self._set_until_s = 0.0
        positions = [GUESSES[min(place, len(GUESSES) - 1)] for place in range(max(1, max_depth))]
        self._acceptance = Acceptance(guesses or positions)
        self._by_position = positions
        self.cost_model = cost or StepCostModel()
        """What was learned of steps."""
        self._guard = GoodputGuard()
        self._drafts: dict[str, tuple[Draft, int]] = {}
        self._last: _Step | None = None
        self._steps = 0
        self._preempted_until = 0
        self._plain_at = -PLAIN_EVERY
        self._step_output = 1.0
        self._draft_tokens = 0
        self._accepted_tokens = 0

    @property
    def control(self) -> DepthControl:
        """The control in force."""
        if self._set is not None and self._clock() < self._set_until_s:
            return self._set
        return self._default

    @property
    def acceptance(self) -> tuple[float, ...]:
        """Per draft position, a moving average of its acceptance where all before it were accepted."""
        return tuple(self._by_position)

    @property
    def step_output(self) -> float:
        """Moving average of the tokens that a decoding request gains per step."""
        return self._step_output

    @property
    def cost(self) -> StepCost:
        """What a step costs, as learned so far."""
        return self.cost_model.cost

    @property
    def draft_tokens_total(self) -> int:
        """Draft tokens verified."""
        return self._draft_tokens

    @property
    def accepted_tokens_total(self) -> int:
        """Draft tokens accepted."""
        return self._accepted_tokens

    @property
    def fallbacks(self) -> int:
        """Times that speculation was suspended because it did not pay."""
        return self._guard.fallbacks

    def set_control(self, control: DepthControl | None, ttl_s: float) -> None:
        """Use this control for `ttl_s` seconds, or the default again. Raises `ValueError` on an invalid one."""
        self._set = None if control is None else validated(control)
        self._set_until_s = self._clock() + ttl_s

    def decide(
        self, drafts: Mapping[str, RunningDraft], decoding: int, prefill_tokens: int, kv_used: float, preempted: bool
    ) -> Mapping[str, int]:
        """How many tokens of each draft to verify in the step that begins.

        decoding: requests that decode in it, with and without draft. prefill_tokens: prompt tokens it computes.
        kv_used: share of the KV blocks in use. preempted: whether a request was preempted since the last step.
        """
        self._settle()
        self._steps += 1
        if preempted:
            self._preempted_until = self._steps + PREEMPTED_STEPS
        control = self.control
        cap = self._max_depth if control.max_depth is None else min(control.max_depth, self._max_depth)
        kinds = {
            request_id: draft.kinds[: cap if most is None or most > cap else max(0, most)]
            for request_id, (draft, most) in drafts.items()
        }
        crowded = kv_used > KV_FULL or self._steps < self._preempted_until
        if control.mode is DepthMode.FIXED:
            depths = fixed_depths(kinds, control.depth)
        elif control.mode is DepthMode.OFF or crowded:
            depths = dict.fromkeys(kinds, 0)
        elif control.mode is DepthMode.TARGET_ACCEPTANCE:
            depths = target_depths(self._survivals(kinds), control.target)
        else:
            depths = self._best(kinds, decoding, prefill_tokens, control.price)
        self._drafts = {request_id: (draft, depths[request_id]) for request_id, (draft, _) in drafts.items()}
        self._last = _Step(decoding, prefill_tokens, control.mode)
        return depths

    def observe(self, request_id: str, tokens: Sequence[int]) -> None:
        """The tokens that a request gained in the step; the whole draft learns from them, verified or not."""
        draft, depth = self._drafts.pop(request_id, (NO_DRAFT, 0))
        if not draft.tokens or not tokens:
            return
        right = self._acceptance.observe(request_id, draft, tokens)
        by_position = self._by_position
        for place in range(min(right + 1, len(draft.tokens), len(tokens), self._max_depth)):
            by_position[place] += POSITION_RATE * ((place < right) - by_position[place])
        accepted = min(depth, len(tokens) - 1)
        self._accepted_tokens += accepted
        if self._last:
            self._last.accepted_tokens += accepted

    def step(self, step_s: float, prefill_tokens: int, decode_tokens: int, draft_tokens: int) -> None:
        """The step took `step_s` seconds; decode_tokens: one per decoding request and its `draft_tokens`."""
        self.cost_model.observe(step_s, prefill_tokens, decode_tokens)
        self._draft_tokens += draft_tokens
        if self._last:
            self._last.step_s = step_s
            # What was computed of prompts, which may be less than what was expected: their KV may not have fitted.
            self._last.prefill_tokens = prefill_tokens
            self._last.draft_tokens = draft_tokens

    def forget(self, request_id: str) -> None:
        """Drop a request that is finished or gone."""
        self._drafts.pop(request_id, None)
        self._acceptance.forget(request_id)

    def _survivals(self, kinds: Kinds) -> dict[str, list[float]]:
        survival = self._acceptance.survival
        return {request_id: survival(request_id, each) for request_id, each in kinds.items()}

    def _best(self, kinds: Kinds, decoding: int, prefill_tokens: int, price: float) -> dict[str, int]:
        if self._guard.suspended:
            return dict.fromkeys(kinds, 0)
        if self.cost_model.known_buckets < FEW_BUCKETS and self._steps <= STATIC_STEPS:
            return fixed_depths(kinds, static_depth(decoding))
        base = max(decoding, len(kinds))
        if prefill_tokens == 0 and self._plain_is_due(base):
            return dict.fromkeys(kinds, 0)
        if self._acceptance.drafts < FEW_OBSERVATIONS:
            kinds = {request_id: each[:FEW_DEPTH] for request_id, each in kinds.items()}
        return goodput_depths(self._survivals(kinds), base, prefill_tokens, self.cost_model.cost, price)

    def _plain_is_due(self, decoding: int) -> bool:
        age = self.cost_model.age(decoding)
        if (age is not None and age < PLAIN_AGE) or self._steps - self._plain_at < PLAIN_EVERY:
            return False
        self._plain_at = self._steps
        return True

    def _settle(self) -> None:
        """Account for the last step, once its tokens and its duration are both in."""
        last, self._last = self._last, None
        if not last or not last.decoding or not last.step_s:
            return
        gained = last.decoding + last.accepted_tokens
        self._step_output += OUTPUT_RATE * (gained / last.decoding - self._step_output)
        if last.mode is not DepthMode.SPECUSTREAM:
            return
        plain_s = self.cost_model.cost.step_s(last.prefill_tokens, last.decoding)
        self._guard.observe(last.decoding, gained, plain_s, last.step_s, bool(last.draft_tokens))
