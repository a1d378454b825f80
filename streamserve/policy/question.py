"""Question: one routing decision as a policy sees it, and the answer that it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamserve.flowguard.assessment import Assessment, Place
from streamserve.policy.columns import Observed
from streamserve.signals import Signals
from streamserve.types import LaneId, Request

Mask = NDArray[np.bool_]


class Answer(NamedTuple):
    """A pair, by its place in the assessment, and a cap on the depth."""

    place: Place
    max_depth: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a policy sees of one decision, wherever it runs."""

    observation: Mapping[str, Observed]
    """pairs (P, F), request (R,), context (C,)."""
    places: tuple[Place, ...]
    """Row of the observation -> place in the assessment; rows beyond these are empty."""
    heuristic: int
    """The row that FlowGuard itself takes."""
    rows: Mask
    """(P,): the rows that may be taken; never empty."""
    depths: Mask
    """(P, K): the caps that mean something on each row; K = 0 always does where the row may be taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Question(Shown):
    """Good until FlowGuard assesses the next request."""

    assessment: Assessment

    def holds(self, answer: Answer | None, then: Signals, request: Request, signals: Signals) -> bool:
        """Whether it still is the question to ask: of the same request, with the same lanes ready as `then`.

        With its answer also whether that lane still has room.
        """
        view = self.assessment.view
        if request.id != view.request.id or _ready(signals) != _ready(then):
            return False
        if answer is None or signals.room is None:
            return True
        return view.lanes.lanes[int(view.block.prefill[answer.place[0]])] in signals.room


def _ready(signals: Signals) -> frozenset[LaneId]:
    return frozenset(lane for lane in signals.lanes if signals.ready(lane))
