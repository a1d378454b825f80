"""The step model from a log of steps: least squares of relative errors, coefficients of at least 0."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import StepModel
from streamserve.lanes.sim.fit_drift import drift
from streamserve.lanes.sim.fit_logs import Step
from streamserve.lanes.sim.nnls import Array, nnls

KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LEAST_STEPS = 4
"""Steps near a knot, or of each sort that the model tells apart, below which there is nothing to fit."""
ROUNDS = 8
"""Of reweighting: by the fitted time, against outliers, and of taking the drift out."""
OUTLIER = 2.5
"""Relative errors above this many times their median count less (Huber 1964)."""
MORE = "measure for longer, or drive the lanes through more kinds of work"
LEAST_S = 1e-6
"""No step takes less, so that what was measured can be divided by what was expected."""


@dataclass(frozen=True, slots=True)
class StepFit:
    """A step model, and the coefficients of its bootstrap samples, a row each in the order of `coefficient_names`."""

    model: StepModel
    slow: Array
    """Per step, log of how slow the machine was then; see `drift`."""
    samples: Array


def fit_step(steps: Sequence[Step], bootstraps: int, rng: np.random.Generator) -> StepFit:
    """Fit the model of one lane that works alone. Raises `ConfigError` that says which steps are missing."""
    check(steps)
    knots = knots_of([step.verified for step in steps if step.verified])
    matrix = design(steps, knots)
    measured = np.array([step.time_s for step in steps])
    slow = np.zeros(len(steps))
    weights = 1 / measured**2
    for _ in range(ROUNDS):
        times = measured / np.exp(slow)
        found = nnls(*_normal(matrix, times, weights))
        fitted = np.maximum(matrix @ found, LEAST_S)
        weights = _huber(times / fitted - 1) / fitted**2
        slow = drift(steps, fitted)
    model = _model(knots, found)
    cells = np.unique([step.cell for step in steps], return_inverse=True)[1]
    return StepFit(model, slow, _bootstrap(matrix, times, weights, cells, bootstraps, rng))


def check(steps: Sequence[Step]) -> None:
    """Raises `ConfigError` where some of the coefficients could not be told apart."""
    decoding = [step for step in steps if step.verified]
    prompts = [step for step in steps if step.prompt_tokens]
    missing = []
    if len(decoding) < LEAST_STEPS or len({step.verified for step in decoding}) < 2:
        missing.append("steps that decode, of batches of different size")
    elif not _varies([step.context_tokens / step.requests for step in decoding]):
        missing.append("steps that decode after prompts of different length")
    if len(prompts) < LEAST_STEPS or not _varies([step.prompt_tokens for step in prompts]):
        missing.append("steps that compute prompts of different length")
    elif not _varies([step.attention_tokens / step.prompt_tokens for step in prompts]):
        missing.append("steps that compute prompts after context of different length")
    if missing:
        raise ConfigError(f"the step model cannot be fitted: there are too few {'; and '.join(missing)}: {MORE}")


def _varies(values: Sequence[float]) -> bool:
    return len(set(values)) > 1 and max(values) > 1.5 * min(values)


def knots_of(verified: Sequence[int]) -> list[int]:
    """Knots near which there are enough steps, from 1 on."""
    counted = np.array(verified)
    nearest = np.abs(np.log(counted)[:, None] - np.log(KNOTS)[None, :]).argmin(axis=1)
    found = [knot for place, knot in enumerate(KNOTS) if (nearest == place).sum() >= LEAST_STEPS]
    return [1, *(knot for knot in found if knot > 1)]


def coefficient_names(knots: Sequence[int]) -> list[str]:
    """In the order of the columns of `design`, the knots' as they are in the model."""
    return [*(f"step.decode_s.{knot}" for knot in knots), *(f"step.{name}" for name in OTHERS)]


OTHERS = ("context_token_s", "prompt_s", "prompt_token_s", "attention_s")


def design(steps: Sequence[Step], knots: Sequence[int]) -> Array:
    """(steps, coefficients): a step's time is its row times the rises from knot to knot and the other coefficients."""
    verified = np.array([step.verified for step in steps], dtype=float)
    rises = [(verified > 0).astype(float)]
    for place, (low, high) in enumerate(zip(knots, knots[1:], strict=False)):
        top = np.inf if place == len(knots) - 2 else 1.0
        rises.append(np.clip((verified - low) / (high - low), 0.0, top))
    prompt = np.array([step.prompt_tokens for step in steps], dtype=float)
    others = [
        np.array([step.context_tokens for step in steps], dtype=float),
        ((prompt > 0) & (verified == 0)).astype(float),
        prompt,
        np.array([step.attention_tokens for step in steps], dtype=float),
    ]
    return np.stack([*rises, *others], axis=1)


def modelled(model: StepModel, steps: Sequence[Step]) -> Array:
    """Seconds of each step by the model, never nothing: one of few steps may hold that a kind of them costs nothing."""
    knots = [tokens for tokens, _ in model.decode_s]
    found: Array = np.maximum(design(steps, knots) @ _coefficients(model), LEAST_S)
    return found


def _coefficients(model: StepModel) -> Array:
    seconds = np.array([seconds for _, seconds in model.decode_s])
    others = [getattr(model, name) for name in OTHERS]
    return np.array([*np.diff(seconds, prepend=0.0), *others])


def _model(knots: Sequence[int], found: Array) -> StepModel:
    seconds = np.cumsum(found[: len(knots)])
    table = tuple((knot, float(each)) for knot, each in zip(knots, seconds, strict=True))
    return StepModel(table, *(float(each) for each in found[len(knots) :]))


def _normal(matrix: Array, times: Array, weights: Array) -> tuple[Array, Array]:
    weighted = matrix * weights[:, None]
    return weighted.T @ matrix, weighted.T @ times


def _huber(relative: Array) -> Array:
    """Weight of each error: 1, and less for those far above the median."""
    size = np.abs(relative)
    limit = OUTLIER * max(float(np.median(size)), 1e-3)
    huber: Array = np.minimum(1.0, limit / np.maximum(size, 1e-12))
    return huber


def _bootstrap(
    matrix: Array, times: Array, weights: Array, cells: NDArray[np.intp], samples: int, rng: np.random.Generator
) -> Array:
    """Coefficients of fits to cells drawn with replacement: a slow moment of the machine slows all steps of a cell."""
    count = int(cells.max()) + 1
    parts = [_normal(matrix[cells == cell], times[cells == cell], weights[cells == cell]) for cell in range(count)]
    grams, moments = np.stack([gram for gram, _ in parts]), np.stack([moment for _, moment in parts])
    rows = []
    for _ in range(samples):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        gram, moment = np.tensordot(drawn, grams, 1), drawn @ moments
        rows.append(nnls(gram.astype(np.float64), moment.astype(np.float64)))
    return np.array(rows).reshape(samples, matrix.shape[1])
