"""Kernels: what a policy sees of a routing decision, compiled by numba.

For the handful of pairs of a decision numpy's calls take many times longer than their work. All that is compiled, and
what it depends on, is in this file: what numba keeps of it is dropped only when the file changes. The network is not
here: numpy's products and tanh are faster than compiled loops of them.
"""

from functools import cache
from math import inf, isnan, log, log1p
from typing import Any

import numpy as np
from numba.core import types
from numba.np.numpy_support import from_dtype
from numpy.typing import NDArray

from streamserve.compiled import compiled
from streamserve.flowguard.table import LANE, LaneNumbers

Floats = NDArray[np.float64]
Observed = NDArray[np.float32]
Mask = NDArray[np.bool_]
Places = NDArray[np.int64]

TINY = 1e-9
HUGE = 1e30
CROWD_COLUMNS = 6
"""Of `layout.CONTEXT`: those that are sums and extremes over the lanes."""
MAX_RUNNING, LEAST_STEP_S, SPECULATION = OWN = (0, 1, 2)
"""Places in the numbers of a lane that the table does not have; from the last on, its control, drafts and trends."""
OWN_COLUMNS = 15
LINEAR, LOG1P, LOG = range(3)
"""Transforms."""

# Plain tuples, as in `flowguard.kernels`.
Lanes = tuple[LaneNumbers, Floats, Floats, Mask]
"""All lanes: the table; `OWN` numbers of each; how long each is silent; whether it is under suspicion."""
Predicted = tuple[Floats, Floats, Floats, Floats, Floats, Floats]
"""Of a forecast: uncached tokens (rows), TPOT (columns), TTFT, E2E and cost (both), and the total scores (both)."""
TOTAL = 5
Chosen = tuple[Places, Places, Places, int]
"""The prefill lane of each row, the decode lane of each column; the pairs to observe, (N, 2); which FlowGuard takes."""
Asked = tuple[float, float, float]
"""The request's prompt tokens; seconds left for its first token, and its wish for TPOT, infinite without a wish."""
Scales = tuple[Places, Floats, Floats, Floats]
"""Per column: its transform, its scale, the least and the greatest that is observed."""


@compiled
def observe(lanes: Lanes, predicted: Predicted, chosen: Chosen, asked: Asked, raw: Floats) -> None:
    """Write the raw numbers of `layout.PAIRS`: (N, F)."""
    numbers, own, silent_s, suspects = lanes
    prefills, decodes, places, heuristic = chosen
    least = _least(predicted, places)
    taken = predicted[TOTAL][places[heuristic, 0], places[heuristic, 1]]
    middle = len(numbers) // 2
    typical_price_s = max(TINY, np.sort(numbers["prefill_token_s"])[middle])
    typical_step_s = max(TINY, np.sort(own[:, LEAST_STEP_S])[middle])
    for index in range(len(places)):
        row, column = places[index, 0], places[index, 1]
        first, second, seen = prefills[row], decodes[column], raw[index]
        prefill, decode = numbers[first], numbers[second]
        seen[0] = 1.0
        seen[1] = index == heuristic
        # Among equals FlowGuard takes turns, so another may score a little more than its choice.
        seen[2] = min(0.0, (predicted[TOTAL][row, column] - taken) / max(TINY, taken))
        seen[3] = first != second
        _outlook(predicted, row, column, least, asked, seen[4:14])
        _deadlines(seen[4], seen[5], decode, asked, seen[14:17])
        _prefill(prefill, typical_price_s, silent_s[first], seen[17:23])
        _decode(decode, own[second], typical_step_s, silent_s[second], seen[23:32])
        seen[32] = decode.transfer_s if first != second else 0.0
        seen[33] = max(prefill.pressure, decode.pressure)
        seen[34] = suspects[first] or suspects[second]
        seen[35:] = own[second, SPECULATION:]


@compiled
def _least(predicted: Predicted, places: Places) -> tuple[float, float, float, float]:
    """TTFT, TPOT, E2E and cost, each of the pair that has the least."""
    _, tpot_s, ttft_s, e2e_s, cost_s, _ = predicted
    ttft, tpot, e2e, cost = inf, inf, inf, inf
    for index in range(len(places)):
        row, column = places[index, 0], places[index, 1]
        ttft, tpot = min(ttft, ttft_s[row, column]), min(tpot, tpot_s[column])
        e2e, cost = min(e2e, e2e_s[row, column]), min(cost, cost_s[row, column])
    return max(TINY, ttft), max(TINY, tpot), max(TINY, e2e), max(TINY, cost)


@compiled
def _outlook(
    predicted: Predicted, row: int, column: int, least: tuple[float, float, float, float], asked: Asked, seen: Floats
) -> None:
    uncached_tokens, tpot_s, ttft_s, e2e_s, cost_s, _ = predicted
    seen[0] = ttft_s[row, column]
    seen[1] = tpot_s[column]
    seen[2] = e2e_s[row, column]
    seen[3] = cost_s[row, column]
    for place in range(4):
        seen[4 + place] = seen[place] / least[place]
    seen[8] = seen[3] - seen[2]
    seen[9] = 1.0 - uncached_tokens[row] / max(1.0, asked[0])


@compiled
def _deadlines(ttft_s: float, tpot_s: float, decode: Any, asked: Asked, seen: Floats) -> None:
    """Predicted times over what the request's deadlines leave of them; 1 without a deadline."""
    _, ttft_left_s, tpot_wish_s = asked
    slower = 0.0
    if decode.decode_requests:
        slower = decode.slower_s / max(TINY, decode.decode_requests * decode.tpot_one_more_s)
    seen[0] = 1.0 if ttft_left_s == inf else ttft_s / ttft_left_s
    seen[1] = 1.0 if tpot_wish_s == inf else tpot_s / tpot_wish_s
    seen[2] = 1.0 if tpot_wish_s == inf else tpot_s * (1.0 - slower) / tpot_wish_s


@compiled
def _prefill(lane: Any, typical_price_s: float, silent_s: float, seen: Floats) -> None:
    seen[0] = lane.prefill_tokens
    seen[1] = lane.prefill_tokens * lane.prefill_token_s
    seen[2] = lane.own_requests
    seen[3] = lane.kv_used
    seen[4] = lane.prefill_token_s / typical_price_s
    seen[5] = silent_s


@compiled
def _decode(lane: Any, own: Floats, typical_step_s: float, silent_s: float, seen: Floats) -> None:
    seen[0] = lane.decode_requests
    seen[1] = lane.prefill_tokens
    seen[2] = lane.reported_waiting
    seen[3] = lane.reported_running
    seen[4] = lane.own_requests / max(1.0, own[MAX_RUNNING])
    seen[5] = lane.kv_used
    seen[6] = lane.step_s
    seen[7] = own[LEAST_STEP_S] / typical_step_s
    seen[8] = silent_s


@compiled
def crowd(numbers: LaneNumbers, seen: Floats) -> None:
    """Write the raw numbers of `layout.CONTEXT` that all lanes make up: `CROWD_COLUMNS`."""
    seen[:] = 0.0
    count = len(numbers)
    for place in range(count):
        lane = numbers[place]
        seen[0] += lane.own_requests / count
        seen[1] = max(seen[1], lane.own_requests)
        seen[2] += lane.prefill_tokens / count
        seen[3] = max(seen[3], lane.prefill_tokens)
        seen[4] += lane.kv_used / count
        seen[5] += lane.step_output / count


@compiled
def transform(raw: Floats, scales: Scales, seen: Observed) -> None:
    """Write the raw numbers as they are observed; both of one dimension. What is not a number counts as 0."""
    kinds, factors, low, high = scales
    for place, number in enumerate(raw):
        value = 0.0 if isnan(number) else min(max(number, -HUGE), HUGE)
        if kinds[place] == LOG1P:
            value = log1p(max(value * factors[place], 0.0))
        elif kinds[place] == LOG:
            value = factors[place] * log(max(value, TINY))
        else:
            value *= factors[place]
        seen[place] = min(max(value, low[place]), high[place])


@cache
def prepare() -> None:
    """Compile for the types that are used, or load what was: once per process, before the first decision."""
    floats, matrix = types.float64[::1], types.float64[:, ::1]
    places, pairs, mask = types.int64[::1], types.int64[:, ::1], types.boolean[::1]
    lanes = types.Tuple((from_dtype(LANE)[::1], matrix, floats, mask))
    predicted = types.Tuple((floats, floats, matrix, matrix, matrix, matrix))
    chosen = types.Tuple((places, places, pairs, types.int64))
    asked = types.UniTuple(types.float64, 3)
    scales = types.Tuple((places, floats, floats, floats))
    seen = types.float32[::1]
    kernels: Any = (
        (observe, (lanes, predicted, chosen, asked, matrix)),
        (crowd, (from_dtype(LANE)[::1], floats)),
        (transform, (floats, scales, seen)),
    )
    for kernel, signature in kernels:
        kernel.compile(signature)
        # Whoever gives it something else should be told so, and not wait until that is compiled as well.
        kernel.disable_compile()
