"""Samples: observations of a training run, spread evenly over it, for the envelope of the policy that comes of it."""

from collections.abc import Mapping

import numpy as np

from agents.network import Inputs
from streamserve.policy.columns import Observed

CAPACITY = 8192


class Samples:
    """Keeps every n-th observation, and every 2n-th as soon as there are too many; of each what a policy reads."""

    def __init__(self, inputs: Inputs, capacity: int = CAPACITY) -> None:
        self._inputs = inputs
        self._capacity = capacity
        self._every = 1
        self._seen = 0
        self._kept: list[dict[str, Observed]] = []

    def add(self, batch: Mapping[str, Observed]) -> None:
        """Observations as environments stack them: array -> (B, ...)."""
        for number in range(len(batch[self._inputs.rows])):
            if self._seen % self._every == 0:
                names = (self._inputs.rows, *self._inputs.vectors)
                self._kept.append({name: batch[name][number].copy() for name in names})
                if len(self._kept) > self._capacity:
                    self._kept = self._kept[::2]
                    self._every *= 2
            self._seen += 1

    def __len__(self) -> int:
        return len(self._kept)

    def arrays(self) -> dict[str, Observed]:
        """Array -> (samples, features), without the rows that were empty."""
        rows = self._inputs.rows
        arrays = {name: np.stack([each[name] for each in self._kept]) for name in self._kept[0]}
        present = arrays[rows][:, :, self._inputs.present] > 0.5
        arrays[rows] = arrays[rows][present]
        return arrays
