"""Kernels: the arithmetic over all pairs of one decision, compiled by numba.

A call into numpy takes as long for the 16 pairs of 4 lanes as for one, and this takes about a hundred of them: nearly
half of a decision. `prepare` compiles in a few seconds and keeps the result; later processes load it in a third of one.
All that is compiled, and what it depends on, is in this file: what was kept is dropped only when the file changes.
"""

from functools import cache
from math import ceil, inf
from typing import Any

import numpy as np
from numba.core import types
from numba.np.numpy_support import from_dtype

from streamserve.compiled import compiled
from streamserve.flowguard.pairs import Floats, Mask, Places
from streamserve.flowguard.table import LANE, LaneNumbers

MOST_PREFILLING = 0.8
"""The largest share of its time for which a lane is thought to be busy with prompts in the long run."""
TINY = 1e-9
SLO_SHAPE = 4.0
"""How sharply the chance of keeping an SLO falls where the prediction reaches it."""


# Plain tuples, and arrays of the caller: numba takes 10 us to open named tuples, and 2 us for an array that it returns.
Asked = tuple[float, float, float, float, float, float, float]
"""What a request is to the kernels: its prompt's tokens; output tokens to expect; those of them that it makes beside
requests that are there already; 1 where its first token comes from the decode lane, else 0; seconds that it has waited;
and the seconds that it wishes for TTFT and for TPOT, infinite without a wish."""
Situation = tuple[LaneNumbers, Floats, Floats, Places, Places, Asked]
"""What a request meets. The lanes; what was learned of each: factor on prefill time, factor on TPOT, share of its time
that it prefills; prompt tokens that each has cached; the places of the prefill lanes, and of the decode lanes."""
Numbers = tuple[Floats, Floats, Floats]
"""A forecast: `ROWS` x prefill lanes, the decode lanes' TPOT, `PAIRS` x prefill lanes x decode lanes."""
UNCACHED_TOKENS, PREFILL_S, TOKENS = ROWS = (0, 1, 2)
TTFT_S, GAP_S, E2E_S, COST_S = PAIRS = (0, 1, 2, 3)
LATENCY, SLO, PREFIX, PREFILL_BATCH, KV_HEADROOM, QUEUE, SPECULATION, DEVICE = range(8)
"""The order of `SCORERS`."""


@compiled
def forecast(met: Situation, said: Numbers) -> None:
    """Predictions for every pair, written into `said`.

    TTFT: steps enough for the queue and the prompt, each with the decodes that run there, half a step of theirs
    to wait, and the price of every prompt token. TPOT: t(V) with one more request over the tokens gained per
    step, stretched by the share of its time that the lane prefills. Others: decodes stalled by the prompt,
    prompts queued beside it, and every longer step of those that decode beside it while both are there.
    """
    lanes, learned, cached_tokens, prefills, decodes, asked = met
    prompt_tokens, expected_tokens, together_tokens, late, _, _, _ = asked
    by_row, tpot_s, by_pair = said
    join_s, queued_s, slower_s = np.empty(len(decodes)), np.empty(len(decodes)), np.empty(len(decodes))
    for column, place in enumerate(decodes):
        lane = lanes[place]
        stretch = learned[1, place] / (1.0 - min(learned[2, place], MOST_PREFILLING))
        tpot_s[column] = lane.tpot_one_more_s * stretch
        slower_s[column] = lane.slower_s * stretch * together_tokens
        join_s[column] = lane.transfer_s + 0.5 * lane.step_s
        queued_s[column] = lane.prefill_tokens * (lane.prefill_token_s * learned[0, place])
    for row, place in enumerate(prefills):
        lane = lanes[place]
        price_s = lane.prefill_token_s * learned[0, place]
        uncached = max(1.0, prompt_tokens - cached_tokens[place])
        tokens = lane.prefill_tokens + uncached
        steps = ceil(tokens * lane.step_share) + lane.step_wait
        prefill_s = tokens * price_s + steps * (lane.step_s * learned[0, place])
        stalled_s = lane.batch * (uncached * price_s)
        by_row[TOKENS, row], by_row[UNCACHED_TOKENS, row], by_row[PREFILL_S, row] = tokens, uncached, prefill_s
        for column, other in enumerate(decodes):
            gap_s = 0.0
            if other != place:
                # Prompts queued on the decode lane stall it, as far as they are not done when the KV arrives.
                gap_s = max(join_s[column], join_s[column] + queued_s[column] - prefill_s)
            e2e_s = gap_s + (prefill_s + (expected_tokens - 1.0) * tpot_s[column])
            by_pair[TTFT_S, row, column] = prefill_s + late * gap_s
            by_pair[GAP_S, row, column] = gap_s
            by_pair[E2E_S, row, column] = e2e_s
            by_pair[COST_S, row, column] = e2e_s + (stalled_s + slower_s[column])


@compiled
def judge(met: Situation, mask: Mask, weights: Floats, said: Numbers, scores: Floats, total: Floats) -> None:
    """Write the forecast, each pair's scores, and their weighted sum, -inf where the mask is False.

    scores: prefill lanes x decode lanes x scorers, in the order of `SCORERS`, which the README beside this file
    explains. weights: of these.
    """
    forecast(met, said)
    lanes, _, _, prefills, decodes, asked = met
    prompt_tokens, expected_tokens, _, _, waited_s, ttft_wish_s, tpot_wish_s = asked
    by_row, tpot_s, by_pair = said
    least_s, least_batch, most_gained = inf, inf, 0.0
    for column, other in enumerate(decodes):
        most_gained = max(most_gained, lanes[other].step_output)
        for row, place in enumerate(prefills):
            if mask[row, column]:
                least_s = min(least_s, by_pair[COST_S, row, column])
                least_batch = min(least_batch, _token_batch(by_row[TOKENS, row], lanes[place], lanes[other]))
    for row, place in enumerate(prefills):
        prefill = lanes[place]
        for column, other in enumerate(decodes):
            decode, each = lanes[other], scores[row, column]
            each[LATENCY] = (least_s + TINY) / (by_pair[COST_S, row, column] + TINY)
            each[SLO] = chance(waited_s + by_pair[TTFT_S, row, column], ttft_wish_s)
            each[SLO] *= chance(tpot_s[column], tpot_wish_s)
            each[PREFIX] = 1.0 - by_row[UNCACHED_TOKENS, row] / max(1.0, prompt_tokens)
            each[PREFILL_BATCH] = (least_batch + TINY) / (_token_batch(by_row[TOKENS, row], prefill, decode) + TINY)
            each[KV_HEADROOM] = _headroom(prefill, decode, prompt_tokens, expected_tokens)
            each[QUEUE] = 1.0 / (1.0 + prefill.waiting + (decode.waiting if other != place else 0.0))
            each[SPECULATION] = decode.step_output / most_gained
            each[DEVICE] = min(prefill.spare, decode.spare)
            weighted = 0.0
            for scorer, weight in enumerate(weights):
                weighted += weight * each[scorer]
            total[row, column] = weighted if mask[row, column] else -inf


@compiled
def _token_batch(tokens: float, prefill: Any, decode: Any) -> float:
    """LMetric's product, tokens to prefill x batch size; a split pair has two half batches."""
    product: float = tokens * (1.0 + prefill.half_batch + decode.half_batch)
    return product


@compiled
def chance(predicted_s: float, wish_s: float) -> float:
    """The chance that a latency keeps its SLO, as if it were log-logistic about the prediction."""
    if wish_s == inf:
        return 1.0
    kept: float = 1.0 / (1.0 + (predicted_s / max(TINY, wish_s)) ** SLO_SHAPE)
    return kept


@compiled
def _headroom(prefill: Any, decode: Any, prompt_tokens: float, expected_tokens: float) -> float:
    """The smaller share of free KV blocks of the two lanes, once the request has its own."""
    left = prefill.kv_free - prompt_tokens * prefill.kv_per_token
    left_there = decode.kv_free - prompt_tokens * decode.kv_per_token
    headroom: float = max(0.0, min(left, left_there - expected_tokens * decode.kv_per_token))
    return headroom


def blank(shape: tuple[int, ...]) -> Numbers:
    """Room for a forecast of so many prefill lanes x decode lanes."""
    return np.empty((len(ROWS), shape[0])), np.empty(shape[1]), np.empty((len(PAIRS), *shape))


@cache
def prepare() -> None:
    """Compile for the types that are used, or load what was: once per process, before the first decision."""
    floats, matrix, pairs = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
    places = types.int64[::1]
    mask = types.Array(types.boolean, 2, "C", readonly=True)
    met = types.Tuple((from_dtype(LANE)[::1], matrix, floats, places, places, types.UniTuple(types.float64, 7)))
    said = types.Tuple((matrix, floats, pairs))
    kernels: Any = ((forecast, (met, said)), (judge, (met, mask, floats, said, pairs, matrix)))
    for kernel, signature in kernels:
        kernel.compile(signature)
        # Whoever gives it something else should be told so, and not wait until that is compiled as well.
        kernel.disable_compile()
