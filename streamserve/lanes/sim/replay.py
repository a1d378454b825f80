"""Exact replay: the drafts that stored outputs give, since what a draft has right is known without an engine.

Which drafts a lane makes follows from its texts alone, whatever SpecuStream verifies of them and however long steps
take; but for the order in which requests add to the lane's history, which here is that of the outputs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamserve.lanes.sim.calibration import Calibration, DraftClass
from streamserve.lanes.sim.drafts import ALL
from streamserve.lanes.sim.fit_drafts import Rates, expected_right, kind_rates
from streamserve.lanes.sim.fit_logs import DraftStep
from streamserve.lanes.sim.work import Found
from streamserve.specustream.playback import Drafter, Output, right_tokens


def replayed(
    outputs: Sequence[Output], drafters: Sequence[Drafter], calibration: Calibration
) -> list[list[Found | None]]:
    """By output and by its tokens so far, the class of the draft for what follows and how much of it is right.

    drafters: one per lane, new; the outputs fall to them in turn. A draft belongs to the calibrated class that has
    about as many right tokens as are expected of it.
    """
    depth = calibration.max_depth
    steps = [_steps(f"{place}", output, drafters[place % len(drafters)], depth) for place, output in enumerate(outputs)]
    rates = kind_rates([step for each in steps for step in each if step.kinds])
    edges = _edges(calibration.acceptance.get(ALL, ()))
    return [[None, *(_found(step, rates, edges) for step in each)] for each in steps]


def _steps(name: str, output: Output, drafter: Drafter, depth: int) -> list[DraftStep]:
    """A draft after each output token but the last."""
    text, steps = list(output.prompt), []
    for place, token in enumerate(output.tokens[:-1], 1):
        text.append(token)
        draft = drafter.draft(name, text, len(output.prompt), depth)
        steps.append(DraftStep(tuple(draft.kinds), right_tokens(draft.tokens, output.tokens[place:])))
    drafter.forget(name)
    return steps


def _edges(classes: Sequence[DraftClass]) -> NDArray[np.float64]:
    centres = np.array([float(np.cumprod(each.acceptance).sum()) for each in classes])
    edges: NDArray[np.float64] = (centres[1:] + centres[:-1]) / 2
    return edges


def _found(step: DraftStep, rates: Rates, edges: NDArray[np.float64]) -> Found | None:
    if not step.kinds:
        return None
    return int(np.searchsorted(edges, expected_right(step.kinds, rates))), step.right
