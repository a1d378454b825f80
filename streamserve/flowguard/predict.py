"""Predictor: what each pair would mean for a request, and for the requests that are there already.

Step costs come from the lanes (`StepCost`: a piecewise linear t(V) and a price per prompt token); what they leave out
is learned from results.
"""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from streamserve.flowguard.corrections import Corrections
from streamserve.flowguard.lengths import Lengths
from streamserve.flowguard.pairs import Block, Floats
from streamserve.flowguard.table import LaneVectors
from streamserve.types import Prediction, Request, Result

MOST_PREFILLING = 0.8
"""The largest share of its time for which a lane is thought to be busy with prompts in the long run."""
MOST_PENDING = 4096
FEWEST_TOKENS = 8
"""Shorter outputs tell little about TPOT."""


class Forecast(NamedTuple):
    """Predictions for prefill lanes (rows) x decode lanes (columns); vectors where only one of them matters.

    All in seconds, from the decision on.
    """

    tokens: Floats
    """All lanes: prompt tokens to compute, those that are queued there among them."""
    uncached_tokens: Floats
    """Rows: prompt tokens of the request to compute."""
    prefill_s: Floats
    """Rows: until the prompt is computed."""
    ttft_s: Floats
    gap_s: Floats
    """Between the prefill lane's token and the decode lane's first: transfer, and the prompts queued there."""
    tpot_s: Floats
    """Columns."""
    e2e_s: Floats
    cost_s: Floats
    """Own end-to-end time, and what the choice costs all requests that are there together."""
    expected_tokens: float


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
        self._lengths = Lengths()
        self._corrections = Corrections()
        self._pending: OrderedDict[str, _Pending] = OrderedDict()

    def forecast(
        self, request: Request, lanes: LaneVectors, cached_tokens: Floats, at_s: float, block: Block
    ) -> Forecast:
        """Predictions for the lanes of this block. cached_tokens: one per lane.

        TTFT: steps enough for the queue and the prompt, each with the decodes that run there, half a step of theirs
        to wait, and the price of every prompt token. TPOT: t(V) with one more request over the tokens gained per
        step, stretched by the share of its time that the lane prefills. Others: decodes stalled by the prompt,
        prompts queued beside it, and every longer step of those that decode beside it while both are there.
        """
        prefill_factor, tpot_factor, prefilling = self._corrections.of(lanes.lanes, at_s)
        expected = self._lengths.expected_tokens(request)
        uncached = np.maximum(1.0, request.prompt_tokens - cached_tokens)
        price_s = lanes.prefill_token_s * prefill_factor
        work_s = uncached * price_s
        queued_s = lanes.prefill_tokens * price_s
        tokens = lanes.prefill_tokens + uncached
        steps = np.ceil(tokens * lanes.step_share) + lanes.step_wait
        prefill_s = tokens * price_s + steps * (lanes.step_s * prefill_factor)
        stretch = tpot_factor / (1.0 - np.minimum(prefilling, MOST_PREFILLING))
        tpot_s = lanes.tpot_one_more_s * stretch
        together = min(expected, self._lengths.remaining_tokens)
        slower_s = lanes.slower_s * stretch * together
        stalled_s = lanes.batch * work_s

        of_prefill, of_decode = block.prefill_of, block.decode_of
        first_s = prefill_s.take(of_prefill)
        join_s = lanes.transfer_s + 0.5 * lanes.step_s
        # Prompts queued on the decode lane stall it, as far as they are not done when the KV arrives.
        gap_s = block.apart * np.maximum(join_s.take(of_decode), (join_s + queued_s).take(of_decode) - first_s)
        e2e_s = gap_s + (first_s + ((expected - 1.0) * tpot_s).take(of_decode))
        return Forecast(
            tokens=tokens,
            uncached_tokens=uncached[block.rows],
            prefill_s=prefill_s[block.rows],
            # Where the sampler keeps state about output, the decode lane draws the first token.
            ttft_s=prefill_s[block.rows][:, None] if request.continuable else first_s + gap_s,
            gap_s=gap_s,
            tpot_s=tpot_s[block.columns],
            e2e_s=e2e_s,
            cost_s=e2e_s + (stalled_s.take(of_prefill) + slower_s.take(of_decode)),
            expected_tokens=expected,
        )

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
            ttft_s=forecast.ttft_s.item(row, column if forecast.ttft_s.shape[1] > 1 else 0),
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
