"""Drafts of simulated requests: which class of draft each decode step has, and how far it is right.

They are drawn from what was measured of the workload (`Luck`), or replayed from the request's own text (`Replay`).
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, zip_longest
from operator import mul

import numpy as np
from numpy.typing import NDArray

from streamserve.compiled import compiled
from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import Calibration, DraftClass
from streamserve.lanes.sim.work import Found
from streamserve.specustream.draft import Draft

NONE = -1
"""The class of a step without a draft."""
UNDRAWN = -2
"""Instead of the class of the step before the first."""
BLOCK_STEPS = 32
ALL = "mix"
SURE = 0.9999
"""The most that a token is right with: one that always is would leave no chance with which it is not."""


Bounds = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""By class its `stay`, that of `NONE` at the end, for -1; the share of the classes up to each; and the same of those
that are drawn anew."""


class Chain:
    """How the classes of a request's steps follow one another.

    With probability `stay` as in the step before, else drawn anew so that each class keeps its share of all steps.
    """

    def __init__(self, classes: Sequence[DraftClass]) -> None:
        none = max(0.0, 1.0 - sum(each.share for each in classes))
        fresh = [each.share * (1.0 - each.stay) for each in classes]
        whole = sum(fresh) + none
        anew = [bound / whole for bound in accumulate(fresh)] if whole else [1.0] * len(classes)
        self.bounds: Bounds = (
            np.array([*(each.stay for each in classes), 0.0]),
            np.array(list(accumulate(each.share for each in classes)), np.float64),
            np.array(anew, np.float64),
        )


class Drafts:
    """The draft classes of all workloads as a lane meets them.

    A class is known to SpecuStream by its place alone: a live lane cannot tell workloads apart either.
    max_depth: longer drafts are cut. scale: on every acceptance.
    Raises `ConfigError` where nothing of drafts was calibrated.
    """

    def __init__(self, calibration: Calibration, max_depth: int, scale: float) -> None:
        if not calibration.acceptance:
            raise ConfigError(
                "this calibration knows nothing of drafts: set speculation.method=none, or calibrate with them"
            )
        self._by_workload = calibration.acceptance
        self._chains = {workload: Chain(classes) for workload, classes in calibration.acceptance.items()}
        self._misses: dict[str, list[list[float]]] = {workload: [] for workload in calibration.acceptance}
        lengths = [
            max(length_of(each, max_depth) for each in alike if each is not None)
            for alike in zip_longest(*calibration.acceptance.values())
        ]
        self.guesses = self._typical(lengths)
        """Acceptance per kind of draft token, as one would guess it."""
        firsts = [0, *accumulate(lengths)]
        self._drafts = {
            workload: [_draft(first, length_of(each, max_depth)) for first, each in zip(firsts, classes, strict=False)]
            for workload, classes in calibration.acceptance.items()
        }
        self.scale(scale)

    def scale(self, scale: float) -> None:
        """Acceptance is the calibrated one times this, at most 1, from now on."""
        for workload, classes in self._by_workload.items():
            # In place: requests hold on to theirs.
            self._misses[workload][:] = [
                [-survival for survival in _survivals(min(SURE, rate * scale) for rate in each.acceptance)]
                for each in classes
            ]

    def chain(self, workload: str) -> Chain:
        """How a workload's drafts follow one another. Raises `ConfigError` for one that was not calibrated."""
        if workload not in self._chains:
            known = ", ".join(self._chains) or "none"
            raise ConfigError(f"no drafts of workload {workload!r} were calibrated; known: {known}")
        return self._chains[workload]

    def drafts(self, workload: str) -> list[Draft]:
        """A draft of each of a workload's classes. Its tokens are all 1: what counts is whether the output's are."""
        return self._drafts[workload]

    def replay(self, workload: str, found: Sequence[Found | None], seed: int) -> "Replay":
        """What was found in a request's own text, as a lane meets it; seed: of what `scale` changes."""
        classes = self._by_workload[workload]
        return Replay(found, [_survivals(min(SURE, rate) for rate in each.acceptance) for each in classes], seed)

    def misses(self, workload: str) -> list[list[float]]:
        """Per class, minus the probabilities that its first 1, 2, ... tokens are right; `scale` changes this list."""
        return self._misses[workload]

    def _typical(self, lengths: list[int]) -> tuple[float, ...]:
        typical = self._by_workload.get(ALL) or max(self._by_workload.values(), key=len, default=())
        guesses: list[float] = []
        for place, length in enumerate(lengths):
            rates = typical[place].acceptance if place < len(typical) else ()
            guesses += [rates[min(n, len(rates) - 1)] if rates else 0.5 for n in range(length)]
        return tuple(guesses)


class Luck:
    """One request's drafts, step by step, drawn from its own seed: the same under every policy.

    A chance below the probability that the first n tokens are right makes them right.
    """

    def __init__(self, chain: Chain, seed: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._chain = chain
        self._block = np.empty(BLOCK_STEPS, np.int64)
        self.places: list[int] = []
        """Class of each step so far drawn, `NONE` = no draft."""
        self.chances: list[float] = []
        """Minus the chance of each step."""

    def reach(self, step: int) -> None:
        """Draw so far that this step is known."""
        while step >= len(self.places):
            self._draw()

    def _draw(self) -> None:
        uniform = self._rng.random(2 * BLOCK_STEPS)
        self.chances += (-uniform[BLOCK_STEPS:]).tolist()
        chain = self._chain
        last = self.places[-1] if self.places else UNDRAWN
        _follow(uniform[:BLOCK_STEPS], last, chain.bounds, self._block)
        self.places += self._block.tolist()


@compiled
def _follow(chances: NDArray[np.float64], last: int, bounds: Bounds, places: NDArray[np.int64]) -> None:
    """Write a class for each chance, the first after a step of class `last`."""
    stays, shares, fresh = bounds
    for step, drawn in enumerate(chances):
        chance, among = drawn, fresh
        if last == UNDRAWN:
            among = shares
        elif stays[last] > 0.0:
            if drawn < stays[last]:
                places[step] = last
                continue
            chance = (drawn - stays[last]) / (1.0 - stays[last])
        last = np.searchsorted(among, chance)
        if last == len(among):
            last = NONE
        places[step] = last


class Replay:
    """One request's drafts as its own text gives them: by the output tokens that are known when they are made.

    survivals: per class, the probabilities that its first 1, 2, ... tokens are right. Each draft gets a chance with
    which just as many are right as were; `Drafts.scale` makes that more or fewer.
    """

    def __init__(self, found: Sequence[Found | None], survivals: Sequence[Sequence[float]], seed: int) -> None:
        uniform = np.random.Generator(np.random.PCG64(seed)).random(len(found)).tolist()
        self.places = [NONE if each is None else each[0] for each in found]
        self.chances = [
            0.0 if each is None else -_chance(survivals[each[0]], each[1], share)
            for each, share in zip(found, uniform, strict=True)
        ]

    def reach(self, token: int) -> None:
        """There is no draft beyond the end of the text that is known."""
        beyond = token + 1 - len(self.places)
        self.places += [NONE] * beyond
        self.chances += [0.0] * beyond


def _chance(survivals: Sequence[float], right: int, share: float) -> float:
    bounds = (1.0, *survivals, 0.0)
    upper, lower = bounds[min(right, len(survivals))], bounds[min(right, len(survivals)) + 1]
    return lower + share * (upper - lower)


def length_of(draft: DraftClass, max_depth: int) -> int:
    """Tokens of such a draft on a lane that drafts no deeper than this."""
    return min(len(draft.acceptance), max_depth)


def right(misses: list[float], chance: float) -> int:
    """How many tokens of a draft are right, with `Drafts.misses` of its class and the step's `Luck.chances`."""
    return bisect_left(misses, chance)


def _draft(first_kind: int, length: int) -> Draft:
    return Draft((1,) * length, tuple(range(first_kind, first_kind + length)))


def _survivals(rates: Iterable[float]) -> list[float]:
    return list(accumulate(rates, mul))
