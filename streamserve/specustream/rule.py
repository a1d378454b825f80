"""Rules: from what is known of each draft to how many of its tokens are verified; pure functions.

A request's survivals are the probabilities that its first 1, 2, ... draft tokens are all accepted: never rising, and
as many as the request may go deep.
"""

from collections.abc import Mapping, Sequence

from streamserve.signals import StepCost

Survivals = Mapping[str, Sequence[float]]
STATIC_TABLE = ((2, 4), (8, 2))
"""Depth up to this many decoding requests, 0 above: used while the cost of a step is not known."""


def goodput_depths(
    survivals: Survivals,
    base_tokens: int,
    prefill_tokens: int,
    cost: StepCost,
    price: float = 1.0,
    weights: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """The depths of best goodput: tokens gained per second of the step.

    All draft tokens compete, likeliest first. The best number B of them maximises the goodput (base + the B largest
    survivals) / t(base + B). At another price p, with G that best goodput, it maximises the tokens gained less
    p * G * t(base + B): 0 admits all, a large price none. All B are looked at, since a step's cost may have stairs.
    base_tokens: decoding requests, with and without draft. weights: of a request's tokens, 1 where missing.
    The optimum over a batch is that of vLLM's adaptive verification (TurboSpec, arXiv 2406.14066).
    """
    depths = dict.fromkeys(survivals, 0)
    slots: list[tuple[float, str]] = []
    for request_id, request_survivals in survivals.items():
        weight = weights.get(request_id, 1.0) if weights else 1.0
        slots += [(weight * survival, request_id) for survival in request_survivals]
    if not slots:
        return depths
    slots.sort(reverse=True)
    times = _step_times(cost, base_tokens, len(slots), prefill_tokens)
    best, goodput = 0, base_tokens / times[0]
    gain = float(base_tokens)
    gains = [gain]
    for admitted, (survival, _) in enumerate(slots, 1):
        gain += survival
        gains.append(gain)
        if gain > goodput * times[admitted]:
            best, goodput = admitted, gain / times[admitted]
    if price != 1.0:
        best = _best_at(price * goodput, gains, times)
    for _, request_id in slots[:best]:
        depths[request_id] += 1
    return depths


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
    tokens, end = base, base + slots
    times: list[float] = []
    for place, (knot, knot_s) in enumerate(knots):
        until = end if place == len(knots) - 1 else min(knot, end)
        if until < tokens:
            continue
        at_s, slope = knot_s + prefill_s, 0.0
        if place:
            below, below_s = knots[place - 1]
            slope = (knot_s - below_s) / (knot - below)
        times += [at_s + slope * (v - knot) for v in range(tokens, until + 1)]
        tokens = until + 1
    return times
