"""Depth controls in turn, every few steps another, and what each of them brought.

A machine whose speed drifts by half within seconds cannot tell two controls apart in runs of their own. Here they share
one run, the text, the batch and the drafter's memory included, and take turns faster than the machine changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from streamserve.signals import DepthControl


@dataclass(slots=True)
class Tally:
    """The steps of one control."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    draft_tokens: int = 0


class Alternation:
    """Turns of `steps` steps, in an order that is drawn anew each round.

    requests: only steps that decode exactly this many, and compute no prompt, are counted.
    """

    def __init__(self, controls: Sequence[DepthControl], steps: int, requests: int) -> None:
        self.tallies = [Tally() for _ in controls]
        self._controls = controls
        self._steps = steps
        self._requests = requests
        self._places = _rounds(len(controls))
        self._place = next(self._places)
        self._left = steps

    @property
    def control(self) -> DepthControl:
        """The one whose turn it is."""
        return self._controls[self._place]

    def step(self, step_s: float, tokens: int, draft_tokens: int, requests: int, prefill_tokens: int) -> None:
        """Count a step, and give the turn to the next when this one is over."""
        if requests != self._requests or prefill_tokens:
            return
        tally = self.tallies[self._place]
        tally.steps += 1
        tally.tokens += tokens
        tally.seconds += step_s
        tally.draft_tokens += draft_tokens
        self._left -= 1
        if not self._left:
            self._place = next(self._places)
            self._left = self._steps


def _rounds(count: int) -> Iterator[int]:
    order = Random(count)
    while True:
        yield from order.sample(range(count), count)
