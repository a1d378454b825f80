"""What a step of a lane costs, learned while it works."""

import math

import numpy as np

from streamserve.signals import StepCost
from streamserve.specustream import kernels

KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Decode tokens at which the table keeps an average: few, since what matters is how t rises, and steps are noisy."""
NEAREST = [min(range(len(KNOTS)), key=lambda place: abs(KNOTS[place] - tokens)) for tokens in range(KNOTS[-1] + 1)]
GUESS = StepCost()
RATE = 0.02
"""Weight of a new step in a knot's average, once the knot has seen 1 / RATE steps; before, all steps count alike."""
COMMON_RATE = 0.05
"""How fast knots that are not visited follow a machine that becomes faster or slower as a whole."""
TRUSTED = 8.0
"""Steps after which a knot is believed more than one step that contradicts it."""
OUTLIER = 5.0
"""Steps this many times slower or faster than expected are believed only if they repeat."""
REPEATS = 3
PREFILL_TOKENS = 16
"""Steps with fewer prompt tokens say too little about the price of one."""
(_LOW, _LOW_S), (_HIGH, _HIGH_S) = GUESS.decode_s
GUESSED = (float(_LOW), _LOW_S, float(_HIGH), _HIGH_S)
"""The line through the guessed table."""


class StepCostModel:
    """Learns t(V) from steps without prefill, and the price of a prompt token from the others."""

    def __init__(self) -> None:
        kernels.prepare()
        self._knots = np.array(KNOTS, np.int64)
        self._knot_s = np.zeros(len(KNOTS))
        self._weight = np.zeros(len(KNOTS))
        self._visited = np.zeros(len(KNOTS), np.int64)
        self._made = np.empty(len(KNOTS) + 2, np.int64), np.empty(len(KNOTS) + 2)
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
        return int(np.count_nonzero(self._weight))

    def age(self, decode_tokens: int) -> int | None:
        """Steps since one of about this many decode tokens was seen; None if none ever was."""
        place = NEAREST[min(decode_tokens, KNOTS[-1])]
        return self._steps - self._visited.item(place) if self._weight.item(place) else None

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
        trusted = self._weight.item(place) >= TRUSTED
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
        if not self._weight.item(place):
            self._knot_s[place] = cost.decode_step_s(KNOTS[place])
        age = self._steps - self._visited.item(place)
        weight = 1.0 + self._weight.item(place) * kernels.FADED.item(min(age, kernels.OLD))
        self._knot_s[place] *= 1 + (1.0 if repeated else max(RATE, 1 / weight)) * (ratio - 1)
        self._weight[place] = min(weight, 1 / RATE)
        self._visited[place] = self._steps

    def _scale(self, factor: float) -> None:
        self._knot_s *= factor

    def _table(self) -> tuple[tuple[int, float], ...]:
        seen = (self._knots, self._knot_s, self._weight, self._visited, self._steps)
        count = kernels.table(seen, GUESSED, self._made)
        if not count:
            return GUESS.decode_s
        tokens, seconds = self._made
        return tuple(zip(tokens[:count].tolist(), seconds[:count].tolist(), strict=True))
