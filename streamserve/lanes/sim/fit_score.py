"""How well a step model does on steps that it was not fitted to, beside how well the machine agrees with itself."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp

import numpy as np

from streamserve.errors import ConfigError
from streamserve.lanes.sim.fit_logs import Step
from streamserve.lanes.sim.fit_step import fit_step, modelled
from streamserve.lanes.sim.nnls import Array

FOLDS = 5
SORTS = ("prefill", "decode", "verify", "mixed")


@dataclass(frozen=True, slots=True)
class Score:
    """Mean absolute relative errors of one sort of steps; None where nothing can be compared."""

    steps: int
    mape: float | None
    """Of each step's time, by a model fitted without its cell."""
    noise: float | None
    """A/A: of each step's time, by the mean of the steps of other cells that compute the same."""
    cell_mape: float | None
    """Of the median of a cell's like steps, by the same model."""
    cell_noise: float | None
    """A/A of these medians."""
    bias: float | None
    """Median of measured over modelled, less 1."""


def sort_of(step: Step) -> str:
    """What a step does: computes prompts, decodes, decodes with drafts, or prompts and decodes."""
    if step.prompt_tokens:
        return "mixed" if step.verified else "prefill"
    return "verify" if step.draft_tokens else "decode"


def held_out(steps: Sequence[Step], rng: np.random.Generator) -> Array:
    """Seconds of each step by a model that was fitted to the cells of other folds, NaN where that is impossible."""
    cells = sorted({step.cell for step in steps})
    fold_of = dict(zip(cells, rng.permutation(np.arange(len(cells)) % FOLDS), strict=True))
    folds = np.array([fold_of[step.cell] for step in steps])
    predicted = np.full(len(steps), np.nan)
    for fold in range(FOLDS):
        rest = [step for step, of in zip(steps, folds, strict=True) if of != fold]
        out = [step for step, of in zip(steps, folds, strict=True) if of == fold]
        try:
            predicted[folds == fold] = modelled(fit_step(rest, 0, rng).model, out)
        except ConfigError:
            # Too few cells to do without these: they stay without a prediction.
            continue
    return predicted


def scores(steps: Sequence[Step], predicted_s: Array, slow: Array | None = None) -> Mapping[str, Score]:
    """By sort of step. predicted_s: NaN where unknown. slow: log of the drift to take out of each measured time.

    That of a step is told by other cells alone, so it makes no error of its own cell smaller than it is.
    """
    if slow is not None:
        steps = [replace(step, time_s=step.time_s / exp(each)) for step, each in zip(steps, slow, strict=True)]
    of_sort: dict[str, list[int]] = defaultdict(list)
    for place, step in enumerate(steps):
        if np.isfinite(predicted_s[place]):
            of_sort[sort_of(step)].append(place)
    return {
        sort: _score([steps[place] for place in of_sort[sort]], predicted_s[of_sort[sort]])
        for sort in SORTS
        if of_sort[sort]
    }


def _score(steps: Sequence[Step], predicted_s: Array) -> Score:
    times = np.array([step.time_s for step in steps])
    alike: dict[tuple[object, ...], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, step in enumerate(steps):
        alike[_composition(step)][step.cell].append(place)
    noise, cell_errors, cell_noise = [], [], []
    for cells in alike.values():
        medians = {cell: float(np.median(times[places])) for cell, places in cells.items()}
        for cell, places in cells.items():
            cell_errors.append(abs(float(np.median(times[places] / predicted_s[places])) - 1))
            others = [place for other, elsewhere in cells.items() if other != cell for place in elsewhere]
            if others:
                noise.extend(np.abs(times[places] / times[others].mean() - 1))
                elsewhere_s = float(np.mean([each for other, each in medians.items() if other != cell]))
                cell_noise.append(abs(medians[cell] / elsewhere_s - 1))
    ratios = times / predicted_s
    return Score(
        len(steps),
        _mean(np.abs(ratios - 1)),
        _mean(noise),
        _mean(cell_errors),
        _mean(cell_noise),
        float(np.median(ratios)) - 1,
    )


def _composition(step: Step) -> tuple[object, ...]:
    # Context grows at every step, and drafts are never quite as many: within a tenth they count as the same.
    drafts, context = (round(float(np.log1p(each)) * 10) for each in (step.draft_tokens, step.context_tokens))
    return step.requests, drafts, step.prompt_tokens, round(step.attention_tokens), context


def _mean(values: Sequence[float] | Array) -> float | None:
    return float(np.mean(values)) if len(values) else None
