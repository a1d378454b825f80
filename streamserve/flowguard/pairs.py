"""Which pairs may serve a request now, as a matrix over the lanes, and whose turn it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamserve.errors import NoLane
from streamserve.signals import Signals
from streamserve.types import Decision, LaneId, LaneState, Prediction, Request, Result

Pair = tuple[LaneId, LaneId]
Pairs = tuple[Pair, ...]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Places = NDArray[np.int64]
"""Positions in the order of the lanes."""

READY = LaneState.READY
DEGRADED = "degraded: no configured pair is ready"


class LearnsNothing:
    """A `Router` whose rule does not depend on how requests turned out."""

    def learn(self, result: Result) -> None:
        """Nothing to learn."""


class Candidates(NamedTuple):
    """The pairs that can take a request: prefill lanes are rows, decode lanes are columns."""

    lanes: tuple[LaneId, ...]
    mask: Mask
    degraded: bool
    """Whether no configured pair is ready, so that these are a makeshift: every ready lane with itself."""
    room: Mask | None
    """Which lanes should be given another prompt now, None = all."""

    @property
    def roomy(self) -> Mask:
        """Those whose prefill lane has room, or all when none has."""
        return self.mask if self.room is None else _if_any(self.mask & self.room[:, None], self.mask)

    def pairs(self) -> Pairs:
        """The roomy ones by name."""
        return tuple((self.lanes[prefill], self.lanes[decode]) for prefill, decode in np.argwhere(self.roomy).tolist())

    def decision(
        self,
        place: tuple[int, int],
        router: str,
        reason: str,
        at_s: float,
        scores: Mapping[str, float] | None = None,
        prediction: Prediction | None = None,
    ) -> Decision:
        """The request goes to the pair in this row and column. reason: unless these are a makeshift."""
        prefill, decode = self.lanes[place[0]], self.lanes[place[1]]
        said = DEGRADED if self.degraded else reason
        return Decision(prefill, decode, router, said, scores or {}, prediction, at_s=at_s)

    def without(self, lanes: Mask) -> "Candidates":
        """Those in which none of these lanes takes part, or all when none is left."""
        others = ~lanes
        mask = _if_any(self.mask & others[:, None] & others[None, :], self.mask)
        return Candidates(self.lanes, mask, self.degraded, self.room)

    def only(self, place: int) -> "Candidates":
        """Those in which the lane at this place takes part, wherever else there is room."""
        mask = np.zeros_like(self.mask)
        mask[place], mask[:, place] = self.mask[place], self.mask[:, place]
        return Candidates(self.lanes, mask, self.degraded, self.room)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some lanes as rows, the prefill lanes, and some as columns, the decode lanes."""

    prefill: Places
    decode: Places
    split: Mask
    """Where the two lanes differ."""
    whole: bool

    @classmethod
    def all(cls, lanes: int) -> "Block":
        """Every lane in both roles."""
        places = np.arange(lanes)
        return cls(places, places, ~np.eye(lanes, dtype=bool), True)

    @classmethod
    def of(cls, prefill: Places, decode: Places) -> "Block":
        """The lanes at these places."""
        return cls(prefill, decode, prefill[:, None] != decode, False)


class Topology:
    """The configured pairs over the lanes of the signals, and when each was chosen last."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._lanes: tuple[LaneId, ...] = ()
        self._configured: Mask = np.zeros((0, 0), bool)
        self._some_here = False
        self._chosen_at: NDArray[np.int64] = np.zeros((0, 0), np.int64)
        self._choices = 0

    def candidates(self, request: Request, signals: Signals) -> Candidates:
        """The pairs that can serve the request now. Raises `NoLane`.

        A request that cannot be split gets lanes paired with themselves only, where there are any.
        """
        lanes = tuple(signals.lanes)
        if lanes != self._lanes:
            self._lay_out(lanes)
        mask = self._configured
        is_ready = [snapshot.state is READY for snapshot in signals.lanes.values()]
        degraded = not self._some_here
        if degraded or not all(is_ready):
            ready = np.array(is_ready, bool)
            mask = mask & ready[:, None] & ready
            degraded = not mask.any()
        if degraded:
            mask = np.diag(ready)
            if not any(is_ready):
                states = ", ".join(f"{lane} {snapshot.state}" for lane, snapshot in signals.lanes.items())
                raise NoLane(f"no lane is ready ({states}); retry in a few seconds")
        elif not request.splittable:
            mask = _if_any(mask & np.eye(len(lanes), dtype=bool), mask)
        room = signals.room if signals.room is None else np.array([lane in signals.room for lane in lanes], bool)
        return Candidates(lanes, mask, degraded, room)

    def least(self, mask: Mask, costs: Floats) -> tuple[int, int]:
        """Row and column of the least cost under the mask; among equals, the pair that was chosen longest ago."""
        masked = np.where(mask, costs, np.inf)
        return self.oldest(mask & (masked <= masked.min()))

    def oldest(self, mask: Mask, block: Block | None = None) -> tuple[int, int]:
        """Row and column of the pair under the mask that was chosen longest ago; now it has been chosen.

        block: the lanes of the mask's rows and columns, None = all.
        """
        chosen_at = self._chosen_at
        if block is not None and not block.whole:
            chosen_at = chosen_at[np.ix_(block.prefill, block.decode)]
        places = mask.ravel().nonzero()[0]
        longest_ago = chosen_at.take(places).argmin() if len(places) > 1 else 0
        row, column = divmod(places.item(longest_ago), mask.shape[1])
        self._choices += 1
        if block is None:
            self._chosen_at[row, column] = self._choices
        else:
            self._chosen_at[block.prefill[row], block.decode[column]] = self._choices
        return row, column

    def _lay_out(self, lanes: tuple[LaneId, ...]) -> None:
        places = {lane: place for place, lane in enumerate(lanes)}
        size = len(lanes)
        self._lanes = lanes
        self._configured = np.zeros((size, size), bool)
        self._chosen_at = np.zeros((size, size), np.int64)
        for turn, (prefill, decode) in enumerate(self._pairs):
            if prefill in places and decode in places:
                self._configured[places[prefill], places[decode]] = True
                # Who was never chosen comes first, in the order of the configuration.
                self._chosen_at[places[prefill], places[decode]] = turn - len(self._pairs)
        self._configured.setflags(write=False)
        self._some_here = bool(self._configured.any())


def _if_any(mask: Mask, otherwise: Mask) -> Mask:
    return mask if mask.any() else otherwise
