"""Question: one routing decision as a policy sees it, and the answer that it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamserve.flowguard.assessment import Assessment, Place
from streamserve.policy.columns import Observed

Mask = NDArray[np.bool_]


class Answer(NamedTuple):
    """A pair, by its place in the assessment, and a cap on the depth."""

    place: Place
    max_depth: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Good until FlowGuard assesses the next request."""

    assessment: Assessment
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
