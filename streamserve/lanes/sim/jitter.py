"""Jitter: by how much single steps of a simulated lane differ from what its host's noise makes of them."""

from math import exp, sqrt

import numpy as np

BLOCK = 256
"""Normals that are drawn at once."""


class Jitter:
    """Log-normal factors of mean 1, a function of the lane and the instant alone.

    Whatever the lane did before, it has the same luck at the same instant: runs that a router's choices have set apart
    stay comparable. sigma: of the logarithm of a single step's time. bucket_s: steps that begin within one share their
    luck; about the time of a step. rng: of this lane.
    """

    def __init__(self, sigma: float, bucket_s: float, rng: np.random.Generator) -> None:
        self._variance = sigma * sigma
        self._bucket_s = bucket_s
        self._seed = int(rng.integers(2**63))
        self._block = -1
        self._normals: list[float] = []

    def factor(self, start_s: float, steps: int) -> float:
        """How many times longer so many steps take that begin then; 1 on average."""
        block, place = divmod(int(start_s / self._bucket_s), BLOCK)
        if block != self._block:
            self._draw(block)
        variance = self._variance / steps
        return exp(sqrt(variance) * self._normals[place] - 0.5 * variance)

    def _draw(self, block: int) -> None:
        # By its own seed, not the next of a stream: a lane may be idle for blocks.
        normals = np.random.Generator(np.random.PCG64((self._seed, block))).standard_normal(BLOCK)
        self._block, self._normals = block, normals.tolist()
