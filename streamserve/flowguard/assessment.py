"""Assessment: what FlowGuard knows of one request's candidates, before anything is chosen."""

from typing import NamedTuple

from streamserve.flowguard.caches import Cached
from streamserve.flowguard.pairs import Block, Floats, Mask
from streamserve.flowguard.predict import Forecast
from streamserve.flowguard.suspicion import Doubts
from streamserve.flowguard.table import LaneVectors
from streamserve.types import Request

Place = tuple[int, int]
"""Row and column of a pair in the matrices."""


class View(NamedTuple):
    """One request's candidates and what is predicted of them."""

    request: Request
    lanes: LaneVectors
    forecast: Forecast
    block: Block
    mask: Mask
    waited_s: float
    """How long the request has waited before this decision."""


class Assessment(NamedTuple):
    """One request's candidates, forecast and scored; good until FlowGuard assesses the next one.

    Prefill lanes are rows and decode lanes are columns of every matrix, those of `view.block`.
    """

    view: View
    at_s: float
    total: Floats
    """Weighted score of each pair, -inf where it cannot be chosen."""
    scores: Floats
    """What that is the sum of: rows x columns x scorers."""
    cached: Cached
    doubts: Doubts
    probed: int | None
    """The lane under suspicion whose turn it is."""
    degraded: bool
    """Whether no configured pair is ready, so that these are a makeshift."""
