"""Predictor: what each pair would mean for a request, and for the requests that are there already.

Step costs come from the lanes (`StepCost`: a piecewise linear t(V) and a price per prompt token); what they leave out
is learned from results.
"""

import math
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from streamserve.flowguard import kernels
from streamserve.flowguard.corrections import Corrections
from streamserve.flowguard.kernels import Situation
from streamserve.flowguard.lengths import Lengths
from streamserve.flowguard.pairs import Block, Floats
from streamserve.flowguard.table import LaneVectors
from streamserve.types import Prediction, Request, Result

MOST_PENDING = 4096
FEWEST_TOKENS = 8
"""Shorter outputs tell little about TPOT."""


class Forecast(NamedTuple):
    """Predictions for prefill lanes (rows) x decode lanes (columns); vectors where only one of them matters.

    All in seconds, from the decision on.
    """

    uncached_tokens: Floats
    """Rows: prompt tokens of the request to compute."""
    prefill_s: Floats
    """Rows: until the prompt is computed."""
    tpot_s: Floats
    """Columns."""
    ttft_s: Floats
    gap_s: Floats
    """Between the prefill lane's token and the decode lane's first: transfer, and the prompts queued there."""
    e2e_s: Floats
    cost_s: Floats
    """Own end-to-end time, and what the choice costs all requests that are there together."""
    expected_tokens: float

    @classmethod
    def of(cls, met: Situation, said: kernels.Numbers) -> "Forecast":
        """What a kernel has written."""
        (uncached_tokens, prefill_s, _), tpot_s, (ttft_s, gap_s, e2e_s, cost_s) = said
        return cls(uncached_tokens, prefill_s, tpot_s, ttft_s, gap_s, e2e_s, cost_s, met[-1][1])


def waited_s(request: Request, at_s: float) -> float:
    """How long the request has waited before a decision at this instant."""
    return max(0.0, at_s - request.arrived_s)


class _Pending(NamedTuple):
    prefill_s: float
    """Uncorrected, as the rest."""
    after_prefill_s: float
    gap_s: float
    tpot_s: float
    max_tokens: int


class Predictor:
    """Predicts latencies and learns from how they turned out."""

    def __init__(self) -> None:
        kernels.prepare()
        self._lengths = Lengths()
        self._corrections = Corrections()
        self._pending: OrderedDict[str, _Pending] = OrderedDict()

    def situation(
        self, request: Request, lanes: LaneVectors, cached_tokens: Floats, at_s: float, block: Block
    ) -> Situation:
        """What the request meets on the lanes of this block. cached_tokens: one per lane."""
        expected_tokens = self._lengths.expected_tokens(request)
        ttft_s, tpot_s = request.slo.ttft_s, request.slo.tpot_s
        asked = (
            float(request.prompt_tokens),
            expected_tokens,
            min(expected_tokens, self._lengths.remaining_tokens),
            # Where the sampler keeps state about output, the decode lane draws the first token.
            0.0 if request.continuable else 1.0,
            waited_s(request, at_s),
            math.inf if ttft_s is None else float(ttft_s),
            math.inf if tpot_s is None else float(tpot_s),
        )
        learned = self._corrections.of(lanes.lanes, at_s)
        return lanes.numbers, learned, cached_tokens, block.prefill, block.decode, asked

    def forecast(
        self, request: Request, lanes: LaneVectors, cached_tokens: Floats, at_s: float, block: Block
    ) -> Forecast:
        """Predictions for the lanes of this block, as `kernels.forecast` explains. cached_tokens: one per lane."""
        met = self.situation(request, lanes, cached_tokens, at_s, block)
        said = kernels.blank(block.split.shape)
        kernels.forecast(met, said)
        return Forecast.of(met, said)

    def marginal_s(
        self, request: Request, lanes: LaneVectors, cached_tokens: Floats, at_s: float
    ) -> tuple[Floats, Floats]:
        """What each lane costs as the prefill lane, and as the decode lane, whatever the other is."""
        own = np.arange(len(lanes.lanes))
        as_decode = self.forecast(request, lanes, cached_tokens, at_s, Block.of(own[:1], own))
        as_prefill = self.forecast(request, lanes, cached_tokens, at_s, Block.of(own, own[:1]))
        return as_prefill.cost_s[:, 0], as_decode.cost_s[0]

    def prediction(self, forecast: Forecast, place: tuple[int, int], request: Request) -> Prediction:
        """The forecast of the pair in this row and column."""
        row, column = place
        return Prediction(
            ttft_s=forecast.ttft_s.item(row, column),
            tpot_s=forecast.tpot_s.item(column),
            e2e_s=forecast.e2e_s.item(row, column),
            cached_tokens=max(0, request.prompt_tokens - int(forecast.uncached_tokens.item(row))),
        )

    def chosen(
        self,
        request: Request,
        lanes: LaneVectors,
        forecast: Forecast,
        block: Block,
        place: tuple[int, int],
        at_s: float,
    ) -> None:
        """The request goes to this pair: remember what was expected, and that its prefill lane has more to do."""
        row, column = place
        prefill, decode = int(block.prefill[row]), int(block.decode[column])
        prefill_factor, tpot_factor, _ = self._corrections.of(lanes.lanes, at_s)
        gap_s = forecast.gap_s.item(row, column)
        self._corrections.prefills(prefill, forecast.uncached_tokens.item(row) * lanes.prefill_token_s.item(prefill))
        self._pending[request.id] = _Pending(
            prefill_s=forecast.prefill_s.item(row) / prefill_factor.item(prefill),
            after_prefill_s=0.0 if request.continuable else gap_s,
            gap_s=gap_s if request.continuable else 0.0,
            tpot_s=forecast.tpot_s.item(column) / tpot_factor.item(decode),
            max_tokens=request.max_tokens,
        )
        self._pending.move_to_end(request.id)
        if len(self._pending) > MOST_PENDING:
            self._pending.popitem(last=False)

    def learn(self, result: Result) -> None:
        """Correct the lanes and the lengths by how a request turned out; one that was started twice tells nothing."""
        pending = self._pending.pop(result.request_id, None)
        decision = result.decision
        if pending is None or decision is None:
            return
        self._lengths.learn(result, pending.max_tokens)
        if result.attempts != 1 or result.first_token_s is None:
            return
        prefill_s = result.first_token_s - decision.at_s - pending.after_prefill_s
        self._corrections.learn_prefill(decision.prefill, prefill_s / max(1e-9, pending.prefill_s))
        if result.output_tokens >= FEWEST_TOKENS:
            decode_s = result.finished_s - result.first_token_s - pending.gap_s
            tpot_s = decode_s / (result.output_tokens - 1)
            self._corrections.learn_tpot(decision.decode, tpot_s / max(1e-9, pending.tpot_s))
