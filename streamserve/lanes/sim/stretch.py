"""Stretch: steps of a simulated lane whose batch stays the same, made in one go."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from streamserve.lanes.sim.batch import Chunk
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.sequence import Sequence as Running


class Stretch:
    """A number of steps from one instant on.

    ends: seconds of work at which each ends. scale: seconds per second of work, without the host's noise.
    gains: per decoding request the tokens that it has made after each step; None = one per step. drafted: per step,
    draft tokens verified.
    chunks: prompts that its only step computes.
    """

    def __init__(
        self,
        decoding: list[Running],
        chunks: list[Chunk],
        ends: Sequence[float],
        gains: list[list[int]] | None = None,
        drafted: Sequence[int] = (),
    ) -> None:
        self.decoding = decoding
        self.chunks = chunks
        self.ends = ends
        self.gains = gains
        self.drafted = drafted
        self.steps = len(ends)
        self.start_s = self.first_s = self.end_s = 0.0
        self.prompt_tokens = sum([tokens for _, tokens in chunks]) if chunks else 0
        self._scale = 1.0
        self._host: Host | None = None

    def begin(self, host: Host, start_s: float, scale: float) -> None:
        """It runs from now on."""
        self._host, self.start_s, self._scale = host, start_s, scale
        self.first_s = self.end_s = host.end_s(start_s, self.ends[0] * scale)
        if self.steps > 1:
            self.end_s = host.end_s(start_s, self.ends[self.steps - 1] * scale)

    def instant(self, steps: int) -> float:
        """When so many of its steps are done."""
        assert self._host is not None
        if not steps:
            return self.start_s
        return self._host.end_s(self.start_s, self.ends[steps - 1] * self._scale)

    def done(self, at_s: float) -> int:
        """How many of its steps are done at this instant."""
        if at_s >= self.end_s:
            return self.steps
        return min(self.steps, bisect_right(self.ends, self._work_s(at_s)))

    def cut(self, at_s: float) -> bool:
        """End with the step that is in flight at this instant; whether that is earlier than before."""
        steps = bisect_left(self.ends, self._work_s(at_s)) + 1
        if steps >= self.steps:
            return False
        self.steps = steps
        self.end_s = max(at_s, self.instant(steps))
        return True

    def gained(self, steps: int) -> list[int]:
        """Tokens that each decoding request makes in the first so many steps."""
        if self.gains is None:
            return [steps] * len(self.decoding)
        return [made[steps - 1] for made in self.gains] if steps else [0] * len(self.decoding)

    def verified(self, steps: int) -> int:
        """Draft tokens that the first so many steps verify."""
        return sum(self.drafted[:steps])

    def tokens(self, step: int) -> int:
        """Tokens that this step computes."""
        drafted = self.drafted[step] if self.drafted else 0
        return len(self.decoding) + drafted + self.prompt_tokens

    def _work_s(self, at_s: float) -> float:
        assert self._host is not None
        return self._host.work_s(self.start_s, at_s) / self._scale
