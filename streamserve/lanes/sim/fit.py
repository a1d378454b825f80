"""From logs to a `Calibration`: all fits together, with 95 % intervals from bootstrap over cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import FORMAT, Calibration, Front, Origin, StepModel, Transfer
from streamserve.lanes.sim.fit_drafts import draft_classes
from streamserve.lanes.sim.fit_logs import Handover, Hop, Logs, Step
from streamserve.lanes.sim.fit_noise import coupled, coupling, lanes_at_work, noise
from streamserve.lanes.sim.fit_score import Score, held_out, scores
from streamserve.lanes.sim.fit_step import StepFit, coefficient_names, fit_step, modelled
from streamserve.lanes.sim.nnls import Array, nnls

BOOTSTRAPS = 200
ALONE = 1.1
"""Steps during which at most so many lanes work, on average, are those of a lane alone."""
LEAST_HANDOVERS = 3
DIGITS = 6
"""Significant digits of the coefficients."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What the lanes are, besides how fast. lanes: how many of them are on the host."""

    lanes: int
    block_tokens: int
    kv_tokens: int
    max_depth: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A calibration, and how far it can be trusted."""

    calibration: Calibration
    held_out: Mapping[str, Score]
    """By sort of step, of the planned cells; the machine's drift is taken out of them."""
    real: Mapping[str, Score]
    """The same of real prompts on all lanes at once, with coupling; no fit has seen them."""
    fitted: tuple[Step, ...]
    """Steps of a lane alone, in the planned cells."""
    fitted_s: Array
    """Their seconds by the model."""


def fit(logs: Logs, origin: Origin, engine: Engine, rng: np.random.Generator) -> Fit:
    """Fit everything. Raises `ConfigError` that says what is missing from the logs."""
    if not logs.steps:
        raise ConfigError("there is no step in the logs: the lanes did not report any, look into their logs")
    working = lanes_at_work(logs.steps)
    planned = [step.kind != "real" for step in logs.steps]
    alone = tuple(
        step for step, plan, lanes in zip(logs.steps, planned, working, strict=True) if plan and lanes <= ALONE
    )
    step_fit = fit_step(alone, BOOTSTRAPS, rng)
    modelled_s = modelled(step_fit.model, logs.steps)
    factors, factor_samples = coupling(logs.steps, working, modelled_s, BOOTSTRAPS, rng)
    coupled_s = modelled_s * coupled(working, factors)
    front, front_samples = fit_front(logs.hops, rng)
    transfer, transfer_samples = fit_transfer(logs.handovers, front, rng) if engine.lanes > 1 else (NO_TRANSFER, {})
    samples = _step_samples(step_fit) | front_samples | transfer_samples
    samples |= {f"coupling.{place + 2}": factor_samples[:, place] for place in range(factor_samples.shape[1])}
    calibration = Calibration(
        format=FORMAT,
        origin=origin,
        step=_rounded_step(step_fit),
        transfer=transfer,
        front=front,
        coupling=tuple(round(factor, 4) for factor in factors),
        noise=noise(logs.steps, coupled_s),
        acceptance=draft_classes(logs.drafts, engine.max_depth) if engine.max_depth else {},
        block_tokens=engine.block_tokens,
        kv_tokens=engine.kv_tokens,
        max_depth=engine.max_depth,
        intervals={name: interval(each) for name, each in samples.items() if len(each)},
    )
    real = [step for step, plan in zip(logs.steps, planned, strict=True) if not plan]
    return Fit(
        calibration,
        scores(alone, held_out(alone, rng), step_fit.slow),
        scores(real, coupled_s[~np.array(planned)]),
        alone,
        modelled(step_fit.model, alone),
    )


NO_TRANSFER = Transfer(0.0, 0.0)


def fit_front(hops: Sequence[Hop], rng: np.random.Generator) -> tuple[Front, dict[str, Array]]:
    """Medians over requests to idle lanes: before their step, and after it. Raises `ConfigError` without any."""
    if not hops:
        raise ConfigError("no request was given to an idle lane: measure for longer")
    submit_s = np.array([hop.at_s - hop.dispatched_s - hop.step_s for hop in hops])
    return_s = np.array([hop.received_s - hop.at_s for hop in hops])
    front = Front(_rounded(max(0.0, np.median(submit_s))), _rounded(max(0.0, np.median(return_s))))
    drawn = rng.integers(len(hops), size=(BOOTSTRAPS, len(hops)))
    return front, {
        "front.submit_s": np.maximum(0.0, np.median(submit_s[drawn], axis=1)),
        "front.return_s": np.maximum(0.0, np.median(return_s[drawn], axis=1)),
    }


def fit_transfer(
    handovers: Sequence[Handover], front: Front, rng: np.random.Generator
) -> tuple[Transfer, dict[str, Array]]:
    """What a fetching decode hop takes more than its step and the front; relative error, at least 0.

    From when the hop is dispatched: what passes before that, from the prefill step's end, is the front's return.
    Raises `ConfigError` when there are too few, or all of one length.
    """
    if len(handovers) < LEAST_HANDOVERS or len({each.tokens for each in handovers}) < 2:
        raise ConfigError(
            f"{len(handovers)} prompts were handed over from lane to lane: at least {LEAST_HANDOVERS} of different "
            "length are needed, measure for longer"
        )
    hops = [each.hop for each in handovers]
    seconds = np.array([hop.at_s - hop.dispatched_s - hop.step_s - front.submit_s for hop in hops])
    seconds = np.maximum(seconds, 0.0)
    matrix = np.stack([np.ones(len(hops)), np.array([each.tokens for each in handovers], dtype=float)], axis=1)
    found = _line(matrix, seconds)
    drawn = [_line(matrix[each], seconds[each]) for each in rng.integers(len(hops), size=(BOOTSTRAPS, len(hops)))]
    samples = np.array(drawn)
    return Transfer(_rounded(found[0]), _rounded(found[1])), {
        "transfer.base_s": samples[:, 0],
        "transfer.token_s": samples[:, 1],
    }


LINE_ROUNDS = 8


def _line(matrix: Array, seconds: Array) -> Array:
    """Least relative absolute error (reweighted squares), which single pauses of the machine move little."""
    floor = max(1e-6, float(np.median(seconds)) * 0.1)
    weights = 1 / np.maximum(seconds, floor) ** 2
    for _ in range(LINE_ROUNDS):
        found = nnls((matrix * weights[:, None]).T @ matrix, (matrix * weights[:, None]).T @ seconds)
        fitted = np.maximum(matrix @ found, floor)
        weights = 1 / (fitted**2 * np.maximum(np.abs(seconds / fitted - 1), 0.05))
    return found


def interval(samples: Array) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return _rounded(low), _rounded(high)


def _step_samples(step_fit: StepFit) -> dict[str, Array]:
    knots = [tokens for tokens, _ in step_fit.model.decode_s]
    samples = step_fit.samples.copy()
    samples[:, : len(knots)] = np.cumsum(samples[:, : len(knots)], axis=1)
    return {name: samples[:, place] for place, name in enumerate(coefficient_names(knots))}


def _rounded_step(step_fit: StepFit) -> StepModel:
    model = step_fit.model
    return StepModel(
        tuple((tokens, _rounded(seconds)) for tokens, seconds in model.decode_s),
        _rounded(model.context_token_s),
        _rounded(model.prompt_s),
        _rounded(model.prompt_token_s),
        _rounded(model.attention_s),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
