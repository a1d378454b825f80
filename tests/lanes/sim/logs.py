"""Logs made from a known calibration, with noise: what a fit must find again."""

import itertools
from collections.abc import Iterator

import numpy as np

from streamserve.lanes.sim.calibration import Origin, StepModel
from streamserve.lanes.sim.fit import Engine
from streamserve.lanes.sim.fit_logs import DraftLog, DraftStep, Handover, Hop, Kind, Logs, Step
from streamserve.lanes.sim.fit_step import modelled

TRUTH = StepModel(
    decode_s=((1, 0.040), (8, 0.046), (64, 0.096), (512, 0.480)),
    context_token_s=2e-6,
    prompt_s=0.035,
    prompt_token_s=0.0007,
    attention_s=2e-8,
)
ENGINE = Engine(lanes=2, block_tokens=128, kv_tokens=40_000, max_depth=8)
ORIGIN = Origin("example-2c", 1, "embedded", "0.32.0", "0.1.0", "2026-01-01", "made up")
COUPLING = 1.2
SUBMIT_S, RETURN_S = 0.002, 0.001
TRANSFER_S = (0.004, 6e-6)
STEPS_PER_CELL = 5

Shape = tuple[Kind, int, int, int, int, float]
"""Kind, prompt tokens, requests, draft tokens, context tokens, attention."""


def shapes() -> Iterator[Shape]:
    """Decoding batches at several depths and contexts, prompts alone and after context, and both at once."""
    for batch, depth, context in itertools.product((1, 8, 64), (0, 7), (40, 600)):
        yield "decode", 0, batch, batch * depth, batch * context, 0.0
    for tokens, before in itertools.product((16, 128, 512, 1800), (0, 1000)):
        yield "prompt", tokens, 0, 0, 0, tokens * (before + tokens / 2)
    for batch, tokens in itertools.product((1, 8), (64, 512)):
        yield "mixed", tokens, batch, 0, batch * 100, tokens * tokens / 2


def step(shape: Shape, cell: int, lane: int, began_s: float, factor: float = 1.0) -> Step:
    """A step of this shape that takes what it does by the truth, times a factor."""
    kind, prompt, requests, drafts, context, attention = shape
    made = Step(cell, kind, lane, 0.0, 0.0, prompt, requests, drafts, context, attention)
    time_s = float(modelled(TRUTH, [made])[0]) * factor
    return Step(cell, kind, lane, began_s + time_s, time_s, prompt, requests, drafts, context, attention)


def alone(rng: np.random.Generator, sigma: float = 0.05, repeats: int = 4) -> list[Step]:
    """Steps of lanes that work by themselves, every shape in several cells."""
    steps: list[Step] = []
    at_s = 0.0
    for cell, shape in enumerate([each for _ in range(repeats) for each in shapes()]):
        for _ in range(STEPS_PER_CELL):
            steps.append(step(shape, cell, cell % 2, at_s, float(np.exp(rng.normal(0.0, sigma)))))
            at_s = steps[-1].at_s
    return steps


def together(rng: np.random.Generator, cell: int, at_s: float, sigma: float = 0.05) -> list[Step]:
    """A lane that decodes by itself, then beside another one, then by itself."""
    shape: Shape = ("together", 0, 8, 0, 800, 0.0)
    steps = []
    for beside in (False, True, False):
        for _ in range(8):
            factor = float(np.exp(rng.normal(0.0, sigma))) * (COUPLING if beside else 1.0)
            steps.append(step(shape, cell, 0, at_s, factor))
            if beside:
                steps.append(step(shape, cell, 1, at_s, factor))
            at_s = steps[-1].at_s
    return steps


def hop(step_s: float, more_s: float = 0.0) -> Hop:
    """A request to an idle lane."""
    return Hop(10.0, 10.0 + SUBMIT_S + step_s + more_s, 10.0 + SUBMIT_S + step_s + more_s + RETURN_S, step_s)


def handovers() -> list[Handover]:
    base_s, token_s = TRANSFER_S
    return [Handover(n, hop(0.04, base_s + token_s * n)) for n in (16, 64, 256, 512, 1024, 1800)]


def drafts(rng: np.random.Generator, requests: int = 30, steps: int = 60) -> list[DraftLog]:
    """Kind 0 is nearly always right, kind 1 hardly ever; which of them a step has stays as it was three times in four.

    One step in ten has no draft.
    """
    logs = []
    for number in range(requests):
        kind, made = 0, []
        for _ in range(steps):
            if rng.random() > 0.5:
                kind = int(rng.random() < 0.5)
            rate = 0.9 if kind == 0 else 0.2
            right = next((place for place in range(8) if rng.random() > rate), 8)
            made.append(DraftStep((kind,) * 8, right) if rng.random() > 0.1 else DraftStep((), 0))
        logs.append(DraftLog("chat" if number % 2 else "code", made))
    return logs


def logs(rng: np.random.Generator) -> Logs:
    steps = alone(rng)
    for cell in range(1000, 1006):
        steps += together(rng, cell, steps[-1].at_s + 1.0)
    return Logs(steps, [hop(0.05) for _ in range(9)], handovers(), drafts(rng))
