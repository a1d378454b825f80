"""Least squares with coefficients of at least 0."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 1e-10


def nnls(gram: Array, moment: Array) -> Array:
    """The x >= 0 that minimises x'Gx / 2 - m'x, for G = A'WA and m = A'Wb (Lawson and Hanson 1974, chapter 23).

    In the faster form of Bro and De Jong (1997), which needs no more than G (n, n) and m (n,).
    """
    size = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    scaled, target = gram / np.outer(size, size), moment / size
    x = np.zeros(len(target))
    free = np.zeros(len(target), dtype=bool)
    limit = TOLERANCE * max(1e-300, float(np.abs(target).max(initial=0.0)))
    for _ in range(10 * len(target) + 10):
        slope = target - scaled @ x
        slope[free] = -np.inf
        best = int(np.argmax(slope))
        if slope[best] <= limit:
            break
        free[best] = True
        while True:
            step = np.zeros(len(target))
            step[free] = np.linalg.lstsq(scaled[np.ix_(free, free)], target[free], rcond=1e-12)[0]
            negative = free & (step <= 0)
            if not negative.any():
                x = step
                break
            reach = float(np.min(x[negative] / np.maximum(x[negative] - step[negative], 1e-300)))
            x = x + reach * (step - x)
            free &= x > TOLERANCE
            x[~free] = 0.0
    unscaled: Array = x / size
    return unscaled
