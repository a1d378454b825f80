"""Network: how a trained policy rates choices, in numpy.

One small network looks at every row (a pair, or a lane) in the same way, so it serves any number of rows, and their
order does not matter. It corrects the heuristic's own rating by at most `kappa`; untrained it corrects nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streamserve.errors import PolicyError
from streamserve.policy.columns import Observed

HIDDEN = 64
MASKED = np.float32(-1e8)
"""The logit of what cannot be chosen, as sb3-contrib masks it."""
MOST_WIDTH = 1024
"""Widest layer that is accepted."""
BLOCK_ROWS = 32
"""Rows that are multiplied at once: for larger products BLAS would start threads, on the cores of the lanes."""
SCALARS = ("tau", "kappa", "penalty")


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Matrices as torch's `Linear` keeps them, (outputs, inputs); float32.

    e = tanh(W2 tanh(W1 x + b1) + b2), c = [mean of e, max of e], h = tanh(W3 [e, c] + b3),
    logits = tau * heuristic + kappa * tanh(W4 h + b4), where choices beyond the first cost `penalty` in the heuristic.
    Raises `PolicyError` on shapes that do not fit and on numbers that are not finite.
    """

    W1: Observed
    b1: Observed
    W2: Observed
    b2: Observed
    W3: Observed
    b3: Observed
    W4: Observed
    b4: Observed
    tau: float
    kappa: float
    penalty: float

    def __post_init__(self) -> None:
        for name, value in self.arrays().items():
            if value.dtype != np.float32:
                raise PolicyError(f"the weights {name} are {value.dtype} and not float32: export the policy again")
            if not np.isfinite(value).all():
                raise PolicyError(f"the weights {name} are not all finite: its training diverged, use another")
        if min(self.tau, self.kappa, self.penalty) < 0:
            raise PolicyError("tau, kappa and penalty must be 0 or more: export the policy again")
        sizes = [matrix.shape[0] if matrix.ndim == 2 else 0 for matrix in (self.W1, self.W2, self.W3, self.W4)]
        inputs = self.W1.shape[1] if self.W1.ndim == 2 else 0
        expected = [(sizes[0], inputs), (sizes[1], sizes[0]), (sizes[2], 3 * sizes[1]), (sizes[3], sizes[2])]
        for number, shape in enumerate(expected, 1):
            matrix, bias = getattr(self, f"W{number}"), getattr(self, f"b{number}")
            if matrix.shape != shape or bias.shape != shape[:1] or not 1 <= min(shape) <= max(shape) <= 3 * MOST_WIDTH:
                raise PolicyError(
                    f"W{number} {matrix.shape} and b{number} {bias.shape} do not fit the other layers: export it again"
                )

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Weights":
        """The weights under these names, none missing and none beside them. Raises `PolicyError`."""
        names = [field.name for field in fields(cls)]
        if set(arrays) != set(names):
            raise PolicyError(f"the weights are {', '.join(sorted(arrays))[:200]} and not {', '.join(names)}")
        for name in SCALARS:
            if arrays[name].shape != () or arrays[name].dtype != np.float32:
                raise PolicyError(f"{name} must be one float32 number: export the policy again")
        return cls(**{name: arrays[name].item() if name in SCALARS else arrays[name] for name in names})  # type: ignore[arg-type]

    @classmethod
    def untrained(
        cls, inputs: int, choices: int, rng: np.random.Generator, scale: tuple[float, float, float] = (4.0, 2.0, 1.0)
    ) -> "Weights":
        """Random layers under a last one of zeros: what it chooses is the heuristic's. scale: tau, kappa, penalty."""

        def layer(outputs: int, width: int) -> Observed:
            return np.asarray(rng.standard_normal((outputs, width)) / np.sqrt(width), np.float32)

        def zeros(*shape: int) -> Observed:
            return np.zeros(shape, np.float32)

        return cls(
            layer(HIDDEN, inputs), zeros(HIDDEN),
            layer(HIDDEN, HIDDEN), zeros(HIDDEN),
            layer(HIDDEN, 3 * HIDDEN), zeros(HIDDEN),
            zeros(choices, HIDDEN), zeros(choices),
            *scale,
        )  # fmt: skip

    def arrays(self) -> dict[str, Observed]:
        """Every weight by its name; scalars have no dimension."""
        scalars = {name: np.array(getattr(self, name), np.float32) for name in SCALARS}
        return {field.name: scalars.get(field.name, getattr(self, field.name)) for field in fields(self)}

    @property
    def inputs(self) -> int:
        """Numbers of a row, the request and the context together."""
        return int(self.W1.shape[1])

    @property
    def choices(self) -> int:
        """Choices of each row."""
        return int(self.W4.shape[0])


class Network:
    """The forward pass, with its buffers: one caller at a time, and a result is good until the next call."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        width = weights.W2.shape[0]
        # Transposed once. What is the same for all rows is multiplied once and not per row.
        self._first = np.ascontiguousarray(weights.W1.T)
        self._second = np.ascontiguousarray(weights.W2.T)
        self._own = np.ascontiguousarray(weights.W3[:, :width].T)
        self._pooled = np.ascontiguousarray(weights.W3[:, width:].T)
        self._last = np.ascontiguousarray(weights.W4.T)
        self._pool = np.empty(2 * width, np.float32)
        self._penalty = np.zeros(weights.choices, np.float32)
        self._penalty[1:] = weights.penalty
        self._rows = 0

    def logits(self, rows: Observed, shared: Observed, heuristic: Observed) -> Observed:
        """How each choice of each row is rated: (N, K), masked by nobody yet.

        rows: (N, F), none of them empty. shared: (S,), what is the same for all. heuristic: (N,), the heuristic's
        rating of each row. F + S are the network's inputs.
        """
        count, own = rows.shape
        if count != self._rows:
            self._make_room(count)
        weights = self.weights
        base = shared @ self._first[own:]
        base += weights.b1
        _product(rows, self._first[:own], self._one)
        self._one += base
        np.tanh(self._one, out=self._one)
        _product(self._one, self._second, self._each)
        self._each += weights.b2
        np.tanh(self._each, out=self._each)
        width = self._each.shape[1]
        np.add.reduce(self._each, axis=0, out=self._pool[:width])
        self._pool[:width] *= np.float32(1.0 / count)
        np.maximum.reduce(self._each, axis=0, out=self._pool[width:])
        pooled = self._pool @ self._pooled
        pooled += weights.b3
        _product(self._each, self._own, self._hidden)
        self._hidden += pooled
        np.tanh(self._hidden, out=self._hidden)
        _product(self._hidden, self._last, self._logits)
        self._logits += weights.b4
        np.tanh(self._logits, out=self._logits)
        self._logits *= np.float32(weights.kappa)
        self._logits += np.float32(weights.tau) * (heuristic[:, None] - self._penalty)
        return self._logits

    def _make_room(self, count: int) -> None:
        weights = self.weights
        self._rows = count
        self._one, self._each, self._hidden, self._logits = (
            np.empty((count, matrix.shape[0]), np.float32)
            for matrix in (weights.W1, weights.W2, weights.W3, weights.W4)
        )


def best(logits: Observed, mask: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Row and choice of the highest logit under the mask; None where a logit under it is not finite."""
    masked = np.where(mask, logits, MASKED)
    if not np.isfinite(masked.sum()):
        return None
    row, choice = divmod(int(masked.argmax()), masked.shape[1])
    return row, choice


def _product(rows: Observed, matrix: Observed, out: Observed) -> None:
    if len(rows) <= BLOCK_ROWS:
        np.matmul(rows, matrix, out=out)
        return
    for begin in range(0, len(rows), BLOCK_ROWS):
        np.matmul(rows[begin : begin + BLOCK_ROWS], matrix, out=out[begin : begin + BLOCK_ROWS])
