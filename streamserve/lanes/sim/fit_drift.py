"""The slow drift of a shared machine's speed, so that no coefficient is charged with the moment it was measured at."""

from collections.abc import Sequence

import numpy as np

from streamserve.lanes.sim.fit_logs import Step
from streamserve.lanes.sim.nnls import Array

MEMORY_S = 5.0
"""How fast what the machine did at one moment stops telling about another."""
LEAST_CELLS = 10
LARGEST = 1.0
"""Residuals of cells are cut to this: a pause is no drift."""


def drift(steps: Sequence[Step], modelled_s: Array) -> Array:
    """Per step, log of how slow the machine was, by the residuals of the other cells around that time; 0 on average.

    Shrunk by how well these foretell a cell's own residual: to nothing on a machine that does not drift.
    """
    _, of = np.unique([step.cell for step in steps], return_inverse=True)
    cells = int(of.max()) + 1
    if cells < LEAST_CELLS:
        return np.zeros(len(steps))
    logs = np.log(np.array([step.time_s for step in steps]) / modelled_s)
    at = np.array([step.at_s for step in steps])
    residuals = np.array([np.median(logs[of == cell]) for cell in range(cells)])
    residuals = np.clip(residuals - np.median(residuals), -LARGEST, LARGEST)
    when = np.array([at[of == cell].mean() for cell in range(cells)])
    near = np.exp(-np.abs(when[:, None] - when[None, :]) / MEMORY_S)
    np.fill_diagonal(near, 0.0)
    around = near @ residuals / np.maximum(near.sum(axis=1), 1e-9)
    spread = float(around @ around)
    slope = min(1.0, max(0.0, float(around @ residuals) / spread)) if spread > 0 else 0.0
    found = slope * around
    centred: Array = (found - found.mean())[of]
    return centred
