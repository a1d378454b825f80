"""What a step of a lane costs, learned while it works."""

import math

from streamserve.signals import StepCost

KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Decode tokens at which the table keeps an average: few, since what matters is how t rises, and steps are noisy."""
NEAREST = [min(range(len(KNOTS)), key=lambda place: abs(KNOTS[place] - tokens)) for tokens in range(KNOTS[-1] + 1)]
GUESS = StepCost()
RATE = 0.02
"""Weight of a new step in a knot's average, once the knot has seen 1 / RATE steps; before, all steps count alike."""
COMMON_RATE = 0.05
"""How fast knots that are not visited follow a machine that becomes faster or slower as a whole."""
FRESH_STEPS = 1024
"""Steps after which what a knot has seen counts half: a bad look must not keep a depth from being tried for ever."""
OLD = 10 * FRESH_STEPS
FADED = [max(1e-3, math.exp2(-age / FRESH_STEPS)) for age in range(OLD + 1)]
"""What counts of a knot that was seen so many steps ago, and `OLD` or more."""
TRUSTED = 8.0
"""Steps after which a knot is believed more than one step that contradicts it."""
OUTLIER = 5.0
"""Steps this many times slower or faster than expected are believed only if they repeat."""
REPEATS = 3
SLOPE_WEIGHT = 2.0
"""How strongly the guessed slope holds against the measured one, in steps times squared tokens."""
PREFILL_TOKENS = 16
"""Steps with fewer prompt tokens say too little about the price of one."""
LEAST = 0.05
"""A step of one token costs at least this share of the smallest that was visited: low, so that it is tried."""
RISE_S = 1e-6
"""The least by which a knot costs more than the one below."""
(_LOW, _LOW_S), (_HIGH, _HIGH_S) = GUESS.decode_s
GUESSED_SLOPE = (_HIGH_S - _LOW_S) / (_HIGH - _LOW)
"""Of the guessed table, in seconds per token."""


class StepCostModel:
    """Learns t(V) from steps without prefill, and the price of a prompt token from the others."""

    def __init__(self) -> None:
        self._knot_s = [0.0] * len(KNOTS)
        self._weight = [0.0] * len(KNOTS)
        self._visited = [0] * len(KNOTS)
        self._outliers = 0
        self._steps = 0
        self._prefill_s = GUESS.prefill_token_s * PREFILL_TOKENS
        self._prefill_tokens = float(PREFILL_TOKENS)
        self._cost: StepCost | None = GUESS

    @property
    def cost(self) -> StepCost:
        """The table as of the last step; the guess before the first."""
        if self._cost is None:
            self._cost = StepCost(self._table(), self._prefill_s / self._prefill_tokens, self._steps)
        return self._cost

    @property
    def known_buckets(self) -> int:
        """Knots of the table that a step has taught."""
        return len(KNOTS) - self._weight.count(0.0)

    def age(self, decode_tokens: int) -> int | None:
        """Steps since one of about this many decode tokens was seen; None if none ever was."""
        place = NEAREST[min(decode_tokens, KNOTS[-1])]
        return self._steps - self._visited[place] if self._weight[place] else None

    def observe(self, step_s: float, prefill_tokens: int, decode_tokens: int) -> None:
        """Learn from one step; one without tokens or without a duration teaches nothing."""
        if not (math.isfinite(step_s) and step_s > 0):
            return
        if prefill_tokens >= PREFILL_TOKENS:
            self._observe_prefill(step_s, prefill_tokens, decode_tokens)
        elif prefill_tokens == 0 and decode_tokens > 0:
            self._observe_decode(step_s, decode_tokens)

    def _observe_prefill(self, step_s: float, prefill_tokens: int, decode_tokens: int) -> None:
        excess_s = max(0.0, step_s - self.cost.decode_step_s(decode_tokens))
        if self._prefill_tokens > PREFILL_TOKENS * TRUSTED:
            excess_s = min(excess_s, OUTLIER * prefill_tokens * self._prefill_s / self._prefill_tokens)
        self._prefill_s = (1 - RATE) * self._prefill_s + excess_s
        self._prefill_tokens = (1 - RATE) * self._prefill_tokens + prefill_tokens
        self._steps += 1
        self._cost = None

    def _observe_decode(self, step_s: float, decode_tokens: int) -> None:
        """All corrections are ratios to what was expected of exactly these tokens, so a knot serves its neighbours."""
        place = NEAREST[min(decode_tokens, KNOTS[-1])]
        cost = self.cost
        ratio = step_s / cost.decode_step_s(decode_tokens)
        trusted = self._weight[place] >= TRUSTED
        repeated = False
        if self._steps and not 1 / OUTLIER < ratio < OUTLIER:
            self._outliers += 1
            # A pause makes a step slower, never faster: a fast one corrects a knot that is little known at once.
            if self._outliers < REPEATS and (trusted or ratio > 1):
                return
            repeated = True
        self._outliers = 0
        self._steps += 1
        self._cost = None
        if trusted and repeated:
            self._scale(ratio)
            return
        if trusted:
            ratio = min(max(ratio, 0.5), 1.5)
            self._scale(1 + COMMON_RATE * (ratio - 1))
        if not self._weight[place]:
            self._knot_s[place] = cost.decode_step_s(KNOTS[place])
        weight = 1.0 + self._aged(place)
        self._knot_s[place] *= 1 + (1.0 if repeated else max(RATE, 1 / weight)) * (ratio - 1)
        self._weight[place] = min(weight, 1 / RATE)
        self._visited[place] = self._steps

    def _scale(self, factor: float) -> None:
        self._knot_s = [knot_s * factor for knot_s in self._knot_s]

    def _aged(self, place: int) -> float:
        return self._weight[place] * FADED[min(self._steps - self._visited[place], OLD)]

    def _table(self) -> tuple[tuple[int, float], ...]:
        """The visited knots, each pulled a little to the line through all of them and so far as it is old, rising."""
        steps = self._steps
        seen: list[tuple[int, float, float]] = []
        # Plain loops: most steps have a new table, in the live engine too, and sums over generators are slow.
        total = first_moment = seconds = 0.0
        for tokens, knot_s, weight, visited in zip(KNOTS, self._knot_s, self._weight, self._visited, strict=True):
            if weight:
                age = steps - visited
                left = weight * FADED[age if age < OLD else OLD]
                seen.append((tokens, knot_s, left))
                total += left
                first_moment += tokens * left
                seconds += knot_s * left
        if not seen:
            return GUESS.decode_s
        mean, mean_s = first_moment / total, seconds / total
        spread = rise = 0.0
        lowest_s = math.inf
        for tokens, knot_s, weight in seen:
            off = tokens - mean
            spread += weight * off**2
            rise += weight * off * knot_s
            lowest_s = knot_s if knot_s < lowest_s else lowest_s
        guessed_s = _LOW_S + (_HIGH_S - _LOW_S) * (mean - _LOW) / (_HIGH - _LOW)
        guessed_slope = GUESSED_SLOPE * mean_s / guessed_s
        slope = max(0.0, (rise + SLOPE_WEIGHT * guessed_slope) / (spread + SLOPE_WEIGHT))
        least_s = 0.5 * lowest_s
        pulled: list[tuple[int, float, float]] = []
        for tokens, knot_s, weight in seen:
            line_s = mean_s + slope * (tokens - mean)
            pulled_s = (knot_s * weight + (line_s if line_s > least_s else least_s)) / (weight + 1)
            pulled.append((tokens, pulled_s, weight))
        return _extended(_rising(pulled), slope)


def _rising(knots: list[tuple[int, float, float]]) -> list[tuple[int, float]]:
    """The closest rising table: neighbours out of order share their weighted mean (isotonic regression)."""
    pools: list[float] = []
    weights: list[float] = []
    ends: list[int] = []
    """Of each pool its seconds, its weight, and the place behind its last knot."""
    for end, (_, knot_s, knot_weight) in enumerate(knots, 1):
        pool_s, weight = knot_s, knot_weight
        while pools and pools[-1] > pool_s:
            below = weights.pop()
            together = below + weight
            pool_s = (pools.pop() * below + pool_s * weight) / together
            weight = together
            ends.pop()
        pools.append(pool_s)
        weights.append(weight)
        ends.append(end)
    table: list[tuple[int, float]] = []
    place, floor_s = 0, 0.0
    for pool_s, end in zip(pools, ends, strict=True):
        while place < end:
            floor_s = max(pool_s, floor_s + RISE_S)
            table.append((knots[place][0], floor_s))
            place += 1
    return table


def _extended(table: list[tuple[int, float]], slope: float) -> tuple[tuple[int, float], ...]:
    """The table, with the line through all knots below the first visited one and above the last."""
    first, first_s = table[0]
    last, last_s = table[-1]
    if first > 1:
        one_s = min(max(first_s - slope * (first - 1), LEAST * first_s), first_s - RISE_S)
        table.insert(0, (1, one_s))
    table.append((2 * last, last_s + max(slope * last, RISE_S)))
    return tuple(table)
