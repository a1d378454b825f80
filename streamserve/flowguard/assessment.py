"""Assessment: what FlowGuard knows of one request's candidates, before anything is chosen."""

from typing import NamedTuple

from streamserve.flowguard.caches import Cached
from streamserve.flowguard.pairs import Floats
from streamserve.flowguard.scorers import View
from streamserve.flowguard.suspicion import Doubts

Place = tuple[int, int]
"""Row and column of a pair in the matrices."""


class Assessment(NamedTuple):
    """One request's candidates, forecast and scored; good until FlowGuard assesses the next one.

    Prefill lanes are rows and decode lanes are columns of every matrix, those of `view.block`.
    """

    view: View
    at_s: float
    total: Floats
    """Weighted score of each pair, -inf where it cannot be chosen."""
    scores: Floats
    """The same by scorer: scorers x rows x columns."""
    cached: Cached
    doubts: Doubts
    probed: int | None
    """The lane under suspicion whose turn it is."""
    degraded: bool
    """Whether no configured pair is ready, so that these are a makeshift."""
