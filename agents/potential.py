"""Potential: has a decision that will miss a deadline cost at once, without changing which policy is best.

A deadline that is missed is booked some dozens of decisions after the one that caused it, when little of it can be
told from what other decisions did. So the deadlines that are expected to be missed, over those of the twin, are the
potential of potential-based shaping (Ng, Harada and Russell 1999, Policy invariance under reward transformations):

    r' = r + gamma * Phi(s') - Phi(s),      Phi = -weight * (expected_missed - the twin's),      0 after the end
"""


class Potential:
    """Of one episode after the other. gamma: the learner's, per step. weight: of a deadline in the reward."""

    def __init__(self, gamma: float, weight: float) -> None:
        self._gamma = gamma
        self._weight = weight
        self._value = 0.0

    def begin(self, expected_missed: float, of_twin: float) -> None:
        """An episode that begins so."""
        self._value = self._of(expected_missed, of_twin)

    def step(self, expected_missed: float, of_twin: float, terminated: bool) -> float:
        """What the reward of a step has beside: where it is cut off and not at its end, others would come after it."""
        before, self._value = self._value, 0.0 if terminated else self._of(expected_missed, of_twin)
        return self._gamma * self._value - before

    def _of(self, expected_missed: float, of_twin: float) -> float:
        return -self._weight * (expected_missed - of_twin)
