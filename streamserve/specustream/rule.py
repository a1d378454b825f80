"""Rules: from what is known of each draft to how many of its tokens are verified; pure functions.

A request's survivals are the probabilities that its first 1, 2, ... draft tokens are all accepted: never rising, and
as many as the request may go deep.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain

from streamserve.signals import StepCost

Survivals = Mapping[str, Sequence[float]]
STATIC_TABLE = ((2, 4), (8, 2))
"""Depth up to this many decoding requests, 0 above: used while the cost of a step is not known."""


def goodput_depths(
    survivals: Survivals, base_tokens: int, prefill_tokens: int, cost: StepCost, price: float = 1.0
) -> dict[str, int]:
    """The depths of best goodput: tokens gained per second of the step.

    All draft tokens compete, likeliest first. The best number B of them maximises the goodput (base + the B largest
    survivals) / t(base + B). At another price p, with G that best goodput, it maximises the tokens gained less
    p * G * t(base + B): 0 admits all, a large price none. All B are looked at, since a step's cost may have stairs.
    base_tokens: decoding requests, with and without draft.
    The optimum over a batch is that of vLLM's adaptive verification (TurboSpec, arXiv 2406.14066).
    """
    slots = sorted(chain.from_iterable(survivals.values()), reverse=True)
    if not slots:
        return dict.fromkeys(survivals, 0)
    times = _step_times(cost, base_tokens, len(slots), prefill_tokens)
    best, goodput = 0, base_tokens / times[0]
    gains = list(accumulate(slots, initial=float(base_tokens)))
    for admitted, gain in enumerate(gains):
        if gain > goodput * times[admitted]:
            best, goodput = admitted, gain / times[admitted]
    if price != 1.0:
        best = _best_at(price * goodput, gains, times)
    return _admitted(survivals, slots, best)


def _admitted(survivals: Survivals, slots: Sequence[float], best: int) -> dict[str, int]:
    """How many of each request's are among the best slots, of all slots in their order; among equals the last ids'."""
    if not best:
        return dict.fromkeys(survivals, 0)
    if best == len(slots):
        return {request_id: len(each) for request_id, each in survivals.items()}
    least = slots[best - 1]
    if slots[best] < least:
        return {request_id: _as_likely(each, least) for request_id, each in survivals.items()}
    ranked = sorted([(each, request_id) for request_id, row in survivals.items() for each in row], reverse=True)
    counts = Counter(request_id for _, request_id in ranked[:best])
    return {request_id: counts[request_id] for request_id in survivals}


def _as_likely(survivals: Sequence[float], least: float) -> int:
    """How many are not below the least."""
    count = 0
    for survival in survivals:
        if survival < least:
            break
        count += 1
    return count


def target_depths(survivals: Survivals, target: float) -> dict[str, int]:
    """The deepest at which a draft token is still accepted with at least the target probability."""
    return {
        request_id: sum(survival >= target for survival in request_survivals)
        for request_id, request_survivals in survivals.items()
    }


def fixed_depths(drafts: Mapping[str, Sequence[object]], depth: int) -> dict[str, int]:
    """The same depth for all, where the drafts are that long."""
    return {request_id: min(depth, len(draft)) for request_id, draft in drafts.items()}


def static_depth(decoding: int) -> int:
    """A depth by the number of decoding requests alone."""
    return next((depth for requests, depth in STATIC_TABLE if decoding <= requests), 0)


def _best_at(price_s: float, gains: Sequence[float], times: Sequence[float]) -> int:
    values = [gain - price_s * time for gain, time in zip(gains, times, strict=True)]
    return values.index(max(values))


def _step_times(cost: StepCost, base: int, slots: int, prefill_tokens: int) -> list[float]:
    """Seconds of a step with base, base + 1, ... base + slots decode tokens; walks the table once."""
    knots = cost.decode_s
    prefill_s = cost.prefill_token_s * prefill_tokens
    tokens, end, last = base, base + slots, len(knots) - 1
    times: list[float] = []
    for place, (knot, knot_s) in enumerate(knots):
        if knot < tokens and place < last:
            continue
        until = end if place == last else min(knot, end)
        at_s, slope = knot_s + prefill_s, 0.0
        if place:
            below, below_s = knots[place - 1]
            slope = (knot_s - below_s) / (knot - below)
        times += [at_s + slope * (v - knot) for v in range(tokens, until + 1)]
        tokens = until + 1
        if tokens > end:
            break
    return times
