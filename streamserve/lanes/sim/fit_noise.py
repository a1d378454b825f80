"""What one lane's step model leaves over: the coupling of lanes that work at once, and noise."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import Noise
from streamserve.lanes.sim.fit_logs import Step
from streamserve.lanes.sim.nnls import Array

EPOCH_S = 1.0
ALONE = 0.1
"""Lanes at work during a step may differ by so much from a whole number."""
LEAST_STEPS = 3
"""Of a lane alone, and of it beside others, in a cell that tells about coupling."""
PAUSE_S = 2.0
"""Steps that took so much longer than modelled were paused by the machine."""


def lanes_at_work(steps: Sequence[Step]) -> Array:
    """Per step, the average number of lanes of the host that work during it, its own counted as 1."""
    began = np.array([step.began_s for step in steps])
    ended = np.array([step.at_s for step in steps])
    lanes = np.array([step.lane for step in steps])
    working = np.ones(len(steps))
    for lane in np.unique(lanes):
        order = np.flatnonzero(lanes == lane)
        order = order[np.argsort(ended[order])]
        others = np.flatnonzero(lanes != lane)
        # A lane's steps do not overlap: the time it has worked until an instant is a broken line.
        at = np.stack([began[order], ended[order]], axis=1).ravel()
        at = np.maximum.accumulate(at)
        worked = np.cumsum(np.diff(at, prepend=at[0]) * (np.arange(len(at)) % 2))
        overlap = np.interp(ended[others], at, worked) - np.interp(began[others], at, worked)
        working[others] += overlap / np.maximum(ended[others] - began[others], 1e-9)
    return working


def coupling(
    steps: Sequence[Step], working: Array, modelled_s: Array, samples: int, rng: np.random.Generator
) -> tuple[tuple[float, ...], Array]:
    """Factors by the number of lanes at work, from 1 on, and bootstrap samples of those above 1, a row each.

    A lane is compared with itself within a cell, in which others come and go: a machine that is slow for a while is
    slow for both. Raises `ConfigError` when there were several lanes and none worked beside another.
    """
    lanes = len({step.lane for step in steps})
    if lanes == 1:
        return (1.0,), np.zeros((samples, 0))
    logs = np.log(np.array([step.time_s for step in steps]) / modelled_s)
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, step in enumerate(steps):
        if step.kind == "together":
            cells[step.cell, step.lane].append(place)
    factors, drawn = [1.0], []
    for count in range(2, lanes + 1):
        found = [_beside(logs[places], working[places], count) for places in cells.values()]
        known = np.array([each for each in found if each is not None])
        if not len(known):
            if count > 2:
                break
            raise ConfigError("no lane was measured with another one at work: measure for longer")
        factors.append(float(np.exp(np.mean(known))))
        drawn.append([float(np.exp(np.mean(rng.choice(known, len(known))))) for _ in range(samples)])
    return tuple(factors), np.array(drawn).T


def _beside(logs: Array, working: Array, count: int) -> float | None:
    alone = logs[working <= 1 + ALONE]
    beside = logs[np.abs(working - count) <= ALONE]
    if min(len(alone), len(beside)) < LEAST_STEPS:
        return None
    return float(np.median(beside) - np.median(alone))


def coupled(working: Array, factors: Sequence[float]) -> Array:
    """The factor of each step, between two numbers of lanes on a straight line."""
    return np.interp(working, np.arange(1, len(factors) + 1), factors)


def noise(steps: Sequence[Step], modelled_s: Array) -> Noise:
    """Epochs' residuals in order, those without a step left out. modelled_s: coupling included."""
    times = np.array([step.time_s for step in steps])
    kept = times - modelled_s < PAUSE_S
    at = np.array([step.at_s for step in steps])
    epochs: dict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero(kept):
        epochs[int((at[place] - at.min()) // EPOCH_S)].append(int(place))
    residuals, within = [], []
    for epoch in sorted(epochs):
        places = epochs[epoch]
        residual = float(np.log(times[places].sum() / modelled_s[places].sum()))
        residuals.append(round(residual, 4))
        if len(places) > 1:
            logs = np.log(times[places] / modelled_s[places])
            within.extend((logs - logs.mean()) * np.sqrt(len(places) / (len(places) - 1)))
    sigma = float(np.sqrt(np.mean(np.square(within)))) if within else 0.0
    return Noise(EPOCH_S, tuple(residuals), round(sigma, 4))
