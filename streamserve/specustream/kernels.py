"""Kernels: the table of what steps cost, made anew after nearly every step, compiled by numba.

All that is compiled, and what it depends on, is in this file: what numba keeps of it is dropped only when it changes.
"""

from functools import cache
from math import exp2, inf
from typing import Any

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from streamserve.compiled import compiled

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

FRESH_STEPS = 1024
"""Steps after which what a knot has seen counts half: a bad look must not keep a depth from being tried for ever."""
OLD = 10 * FRESH_STEPS
FADED = np.array([max(1e-3, exp2(-age / FRESH_STEPS)) for age in range(OLD + 1)])
"""What counts of a knot that was seen so many steps ago, and `OLD` or more."""
SLOPE_WEIGHT = 2.0
"""How strongly the guessed slope holds against the measured one, in steps times squared tokens."""
LEAST = 0.05
"""A step of one token costs at least this share of the smallest that was visited: low, so that it is tried."""
RISE_S = 1e-6
"""The least by which a knot costs more than the one below."""

Seen = tuple[Counts, Floats, Floats, Counts, int]
"""Of each knot its tokens, its mean seconds, the weight of these (0 = never seen) and the step that it was seen in
last; and the steps so far."""
Line = tuple[float, float, float, float]
"""The guessed line through (tokens, seconds) and (tokens, seconds)."""
Made = tuple[Counts, Floats]
"""Room for the table's knots: two more than are learned."""


@compiled
def table(seen: Seen, guess: Line, made: Made) -> int:
    """Write the visited knots, each pulled to the line through all of them as far as it is little known, rising.

    Returns how many; 0 where none was visited. With the line below the first of them and above the last.
    """
    knots, knot_s, weights, visited, steps = seen
    tokens, seconds = made
    left, count = np.empty(len(knots)), 0
    total = first_moment = moment_s = 0.0
    for place in range(len(knots)):
        if weights[place] > 0.0:
            # A place is kept free in front of the first.
            tokens[count + 1], seconds[count + 1] = knots[place], knot_s[place]
            left[count] = weights[place] * FADED[min(steps - visited[place], OLD)]
            total += left[count]
            first_moment += knots[place] * left[count]
            moment_s += knot_s[place] * left[count]
            count += 1
    if not count:
        return 0
    mean, mean_s = first_moment / total, moment_s / total
    spread = rise = 0.0
    lowest_s = inf
    for place in range(count):
        off = tokens[place + 1] - mean
        spread += left[place] * (off * off)
        rise += left[place] * off * seconds[place + 1]
        lowest_s = min(lowest_s, seconds[place + 1])
    low, low_s, high, high_s = guess
    guessed_s = low_s + (high_s - low_s) * (mean - low) / (high - low)
    guessed_slope = (high_s - low_s) / (high - low) * mean_s / guessed_s
    slope = max(0.0, (rise + SLOPE_WEIGHT * guessed_slope) / (spread + SLOPE_WEIGHT))
    for place in range(count):
        line_s = max(mean_s + slope * (tokens[place + 1] - mean), 0.5 * lowest_s)
        seconds[place + 1] = (seconds[place + 1] * left[place] + line_s) / (left[place] + 1)
    _rise(seconds[1 : count + 1], left[:count])
    first, first_s = tokens[1], seconds[1]
    last, last_s = tokens[count], seconds[count]
    begin = 1
    if first > 1:
        begin, tokens[0] = 0, 1
        seconds[0] = min(max(first_s - slope * (first - 1), LEAST * first_s), first_s - min(RISE_S, 0.5 * first_s))
    tokens[count + 1], seconds[count + 1] = 2 * last, last_s + max(slope * last, RISE_S)
    size = count + 2 - begin
    if begin:
        for place in range(size):
            tokens[place], seconds[place] = tokens[place + 1], seconds[place + 1]
    return size


@compiled
def _rise(seconds: Floats, weights: Floats) -> None:
    """The closest rising sequence: neighbours out of order share their weighted mean (isotonic regression)."""
    pools, shares, ends = np.empty(len(seconds)), np.empty(len(seconds)), np.empty(len(seconds), np.int64)
    count = 0
    for place in range(len(seconds)):
        pool_s, weight = seconds[place], weights[place]
        while count and pools[count - 1] > pool_s:
            count -= 1
            together = shares[count] + weight
            pool_s = (pools[count] * shares[count] + pool_s * weight) / together
            weight = together
        pools[count], shares[count], ends[count] = pool_s, weight, place + 1
        count += 1
    place, floor_s = 0, 0.0
    for pool in range(count):
        while place < ends[pool]:
            floor_s = max(pools[pool], floor_s + RISE_S)
            seconds[place] = floor_s
            place += 1


@cache
def prepare() -> None:
    """Compile for the types that are used, or load what was: once per process, before the first step."""
    floats, counts = types.float64[::1], types.int64[::1]
    seen = types.Tuple((counts, floats, floats, counts, types.int64))
    kernel: Any = table
    kernel.compile((seen, types.UniTuple(types.float64, 4), types.Tuple((counts, floats))))
    # Whoever gives it something else should be told so, and not wait until that is compiled as well.
    kernel.disable_compile()
