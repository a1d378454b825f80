"""Lengths: how long outputs will be, learned from those that ended."""

from streamserve.types import Request, Result

RATE = 1 / 32


class Lengths:
    """Moving averages over finished requests."""

    def __init__(self) -> None:
        self._of_max = 0.7
        self._mean = 128.0
        self._square = 2 * 128.0**2

    def expected_tokens(self, request: Request) -> float:
        """Output tokens to expect of a request: its limit times the usual share of the limit."""
        return max(1.0, request.max_tokens * self._of_max)

    @property
    def remaining_tokens(self) -> float:
        """Output tokens that a request met at some moment still has to make, on average.

        E[X^2] / 2 E[X], the mean residual life of renewal theory: long outputs are met more often.
        """
        return self._square / (2 * self._mean)

    def learn(self, result: Result, max_tokens: int) -> None:
        """A request with this limit ended by itself; others tell nothing about lengths."""
        if not result.finish.by_itself or result.output_tokens <= 0 or max_tokens <= 0:
            return
        tokens = result.output_tokens
        self._of_max += RATE * (min(1.0, tokens / max_tokens) - self._of_max)
        self._mean += RATE * (tokens - self._mean)
        self._square += RATE * (tokens**2 - self._square)
