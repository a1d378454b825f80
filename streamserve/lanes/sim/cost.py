"""Step time: what a step of the calibrated lane takes, without coupling and noise."""

from collections.abc import Iterator, Sequence
from typing import overload

from streamserve.lanes.sim.calibration import StepModel
from streamserve.signals import StepCost


class StepTime:
    """`StepModel` as a function; t(V) is looked up in a list."""

    def __init__(self, model: StepModel) -> None:
        self._table = StepCost(decode_s=model.decode_s)
        self._decode_s = [0.0]
        self.model = model

    def decode_s(self, tokens: int) -> float:
        """t(V): seconds to verify this many tokens."""
        return self.table(tokens)[tokens]

    def table(self, tokens: int) -> list[float]:
        """t(V) of every V up to this many tokens, and of some beyond."""
        known = self._decode_s
        while tokens >= len(known):
            known.append(self._table.decode_step_s(len(known)))
        return known

    def prompt_s(self, chunks: Sequence[tuple[int, int]], decoding: int = 0) -> float:
        """Seconds that prompts add to a step. chunks: context before, and tokens; decoding: requests in the step."""
        if not chunks:
            return 0.0
        model = self.model
        tokens, attended = 0, 0.0
        for before, chunk in chunks:
            tokens += chunk
            attended += chunk * (before + 0.5 * chunk)
        alone_s = 0.0 if decoding else model.prompt_s
        return alone_s + model.prompt_token_s * tokens + model.attention_s * attended

    def context_s(self, tokens: int) -> float:
        """Seconds for the context of all decoding requests."""
        return self.model.context_token_s * tokens


class EqualSteps(Sequence[float]):
    """When each of n steps ends whose batch is the same: every one adds a token of context per request.

    Seconds of work from the beginning of the first. first_s: what that takes. growth_s: by how much each takes longer
    than the one before.
    """

    def __init__(self, steps: int, first_s: float, growth_s: float) -> None:
        self._steps = steps
        self._first_s = first_s
        self._growth_s = growth_s

    def __len__(self) -> int:
        return self._steps

    @overload
    def __getitem__(self, place: int) -> float: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[float]: ...

    def __getitem__(self, place: int | slice) -> float | Sequence[float]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self._steps))]
        if not 0 <= place < self._steps:
            raise IndexError(place)
        return (place + 1) * (self._first_s + 0.5 * place * self._growth_s)

    def __iter__(self) -> Iterator[float]:
        return (self[place] for place in range(self._steps))
