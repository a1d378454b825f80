"""Spaces and random observations in the shape of the environments' own."""

import numpy as np
from gymnasium import spaces

from streamserve.policy.layout import CONTEXT, PAIRS, REQUEST

Observation = dict[str, np.ndarray]
HEURISTIC, SCORE, PRESENT = (PAIRS.places[name] for name in ("heuristic", "score", "present"))


def box(columns: object, rows: int | None = None) -> spaces.Box:
    """The Box of a `Columns`, repeated for each row."""
    low, high = columns.low, columns.high  # type: ignore[attr-defined]
    if rows is not None:
        low, high = np.tile(low, (rows, 1)), np.tile(high, (rows, 1))
    return spaces.Box(low, high, dtype=np.float32)


def observations(pairs: int) -> spaces.Dict:
    """What Serve and Route observe."""
    return spaces.Dict({"pairs": box(PAIRS, pairs), "request": box(REQUEST), "context": box(CONTEXT)})


def random(
    rng: np.random.Generator, batch: int, pairs: int, choices: int
) -> tuple[Observation, np.ndarray, np.ndarray]:
    """Observations within their bounds, masks (B, P * K) that allow the heuristic, and the heuristic's actions."""
    space = observations(pairs)
    seen = {
        name: rng.uniform(each.low, each.high, (batch, *each.shape)).astype(np.float32)
        for name, each in space.spaces.items()
        if isinstance(each, spaces.Box)
    }
    mask = np.zeros((batch, pairs, choices), bool)
    heuristic = np.zeros(batch, np.int64)
    for number in range(batch):
        present = int(rng.integers(1, pairs + 1))
        rows = seen["pairs"][number]
        rows[present:] = 0.0
        rows[:present, PRESENT] = 1.0
        rows[:, HEURISTIC] = 0.0
        chosen = int(rng.integers(present))
        rows[chosen, HEURISTIC], rows[chosen, SCORE] = 1.0, 0.0
        mask[number, :present] = rng.random((present, choices)) < 0.7
        mask[number, :present, 0] = True
        heuristic[number] = chosen * choices
    return seen, mask.reshape(batch, -1), heuristic
