"""Scorers: how good each pair is in one respect, 0..1; the README beside this file explains each.

A scorer returns a matrix of prefill lanes x decode lanes, or what broadcasts to one.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from streamserve.flowguard.pairs import Block, Floats, Mask
from streamserve.flowguard.predict import Forecast
from streamserve.flowguard.table import LaneVectors
from streamserve.types import Request

TINY = 1e-9
SLO_SHAPE = 4.0
"""How sharply the chance of keeping an SLO falls where the prediction reaches it."""


class View(NamedTuple):
    """What a scorer sees of one request's candidates."""

    request: Request
    lanes: LaneVectors
    forecast: Forecast
    block: Block
    mask: Mask
    everyone: bool
    """Whether the mask holds every pair."""
    waited_s: float
    """How long the request has waited before this decision."""

    def pick(self, of_prefill: Floats, of_decode: Floats) -> tuple[Floats, Floats]:
        """A vector over all lanes by each pair's prefill lane, another by its decode lane."""
        return of_prefill.take(self.block.prefill_of), of_decode.take(self.block.decode_of)

    def least_over(self, costs: Floats) -> Floats:
        """The least cost of any candidate over this pair's. What else is in the matrix may come out above 1."""
        # Looking for a place is faster than looking for a value.
        least = costs.item(costs.argmin()) if self.everyone else costs[self.mask].min()
        scores: Floats = (least + TINY) / (costs + TINY)
        return scores


Scorer = Callable[[View], Floats | float]


def latency(view: View) -> Floats:
    """The least predicted cost over this pair's: own end-to-end time and what it costs the others."""
    return view.least_over(view.forecast.cost_s)


def slo(view: View) -> Floats | float:
    """The chance that the request keeps its SLOs, as if latencies were log-logistic about the prediction."""
    wish = view.request.slo
    chance: Floats | float = 1.0
    if wish.ttft_s is not None:
        chance = chance / (1.0 + ((view.waited_s + view.forecast.ttft_s) / max(TINY, wish.ttft_s)) ** SLO_SHAPE)
    if wish.tpot_s is not None:
        chance = chance / (1.0 + (view.forecast.tpot_s[None, :] / max(TINY, wish.tpot_s)) ** SLO_SHAPE)
    return chance


def prefix(view: View) -> Floats:
    """The share of the prompt that the prefill lane holds in its cache."""
    share: Floats = 1.0 - view.forecast.uncached_tokens / max(1, view.request.prompt_tokens)
    return share[:, None]


def prefill_batch(view: View) -> Floats:
    """LMetric's product, tokens to prefill x batch size, least over this pair's; a split pair has two half batches."""
    half = view.lanes.half_batch
    of_prefill, of_decode = view.pick(1.0 + half, half)
    return view.least_over(view.forecast.tokens.take(view.block.prefill_of) * (of_prefill + of_decode))


def kv_headroom(view: View) -> Floats:
    """The smaller share of free KV blocks of the two lanes, once the request has its own."""
    per_token = view.lanes.kv_per_token
    left = view.lanes.kv_free - view.request.prompt_tokens * per_token
    of_prefill, of_decode = view.pick(left, left - view.forecast.expected_tokens * per_token)
    headroom: Floats = np.maximum(0.0, np.minimum(of_prefill, of_decode))
    return headroom


def queue(view: View) -> Floats:
    """One over one more than the requests that wait on the two lanes."""
    of_prefill, of_decode = view.pick(1.0 + view.lanes.waiting, view.lanes.waiting)
    share: Floats = 1.0 / (of_prefill + of_decode * view.block.apart)
    return share


def speculation(view: View) -> Floats:
    """Tokens per step on the decode lane over the most of any lane."""
    gained = view.lanes.step_output[view.block.columns]
    share: Floats = gained / gained.item(gained.argmax())
    return share[None, :]


def device(view: View) -> Floats:
    """How far the harder pressed of the two devices is from its limits: memory, heat, GPU and CPU time."""
    of_prefill, of_decode = view.pick(view.lanes.spare, view.lanes.spare)
    return np.minimum(of_prefill, of_decode)


SCORERS: Mapping[str, tuple[Scorer, float]] = {
    "latency": (latency, 1.0),
    "slo": (slo, 0.5),
    "prefix": (prefix, 0.02),
    "prefill_batch": (prefill_batch, 0.02),
    "kv_headroom": (kv_headroom, 0.05),
    "queue": (queue, 0.02),
    "speculation": (speculation, 0.01),
    "device": (device, 0.02),
}
"""Scorer and default weight, by name."""
