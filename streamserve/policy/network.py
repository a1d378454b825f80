"""Network: how a trained policy rates choices, without the library that trained it.

One small network looks at every row (a pair, or a lane) in the same way, so it serves any number of rows, and their
order does not matter. It corrects the heuristic's own rating by at most `kappa`; untrained it corrects nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streamserve.errors import PolicyError
from streamserve.policy import kernels
from streamserve.policy.columns import Observed

HIDDEN = 64
MASKED = np.float32(-1e8)
"""The logit of what cannot be chosen, as sb3-contrib masks it."""
MOST_WIDTH = 1024
"""Widest layer that is accepted."""
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
        kernels.prepare()
        self.weights = weights
        layers = (
            (weights.W1, weights.b1),
            (weights.W2, weights.b2),
            (weights.W3, weights.b3),
            (weights.W4, weights.b4),
        )
        flat = (np.array(each, order="C") for matrix, bias in layers for each in (matrix.T, bias))
        self._layers: kernels.Layers = tuple(flat)  # type: ignore[assignment]
        self._scale = (np.float32(weights.tau), np.float32(weights.kappa), np.float32(weights.penalty))
        self._rows = 0

    def logits(self, rows: Observed, shared: Observed, heuristic: Observed) -> Observed:
        """How each choice of each row is rated: (N, K), masked by nobody yet.

        rows: (N, F), none of them empty. shared: (S,), what is the same for all. heuristic: (N,), the heuristic's
        rating of each row. F + S are the network's inputs. Raises `ValueError` if they are not.
        """
        count, own = rows.shape
        if own + len(shared) != self.weights.inputs:
            raise ValueError(f"the network takes {self.weights.inputs} numbers of a row, got {own} + {len(shared)}")
        if count != self._rows:
            self._make_room(count)
        kernels.logits(self._layers, self._scale, (rows, shared, heuristic), self._room, self._logits)
        return self._logits

    def _make_room(self, count: int) -> None:
        weights = self.weights
        self._rows = count
        first, second, third, last = (len(each) for each in (weights.b1, weights.b2, weights.b3, weights.b4))
        shapes = ((first,), (first,), (count, second), (third,), (third,))
        self._room: kernels.Room = tuple(np.empty(shape, np.float32) for shape in shapes)  # type: ignore[assignment]
        self._logits = np.empty((count, last), np.float32)


def best(logits: Observed, mask: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Row and choice of the highest logit under the mask; None where a logit under it is not finite."""
    masked = np.where(mask, logits, MASKED)
    if not np.isfinite(masked.sum()):
        return None
    row, choice = divmod(int(masked.argmax()), masked.shape[1])
    return row, choice
