"""Codec: a routing decision as arrays, and actions as decisions; the same for training and for serving.

The observation is the Dict of `pairs` (P, F), `request` (R,) and `context` (C,), all float32 (see `layout`). It holds
what a router is given and nothing else: no true output length, no wall clock, no number of the step in an episode.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamserve.errors import ConfigError
from streamserve.flowguard.assessment import Assessment, Place
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.policy.columns import Floats, Observed
from streamserve.policy.controls import DEPTH_CAPS
from streamserve.policy.layout import CONTEXT, PAIRS, REQUEST
from streamserve.policy.observe import Observer
from streamserve.policy.question import Answer, Mask, Question, Shown
from streamserve.policy.rhythm import Beat
from streamserve.policy.schema import fingerprint
from streamserve.signals import DepthMode, Signals
from streamserve.types import Decision

PAIRS_MOST = 8


class Codec:
    """Observations of at most `most_pairs` pairs; actions on them.

    An action is a row (Route), or row * K + index of a depth cap (Serve). Raises `ConfigError` on sizes that cannot be.
    """

    def __init__(self, most_pairs: int = PAIRS_MOST, depth_caps: tuple[int | None, ...] = DEPTH_CAPS) -> None:
        if most_pairs < 1:
            raise ConfigError(f"most_pairs must be at least 1, got {most_pairs}")
        if not depth_caps or depth_caps[0] is not None:
            raise ConfigError(f"depth_caps: the first must be null (as the lane decides), got {list(depth_caps)}")
        if any(cap is None or cap < 0 for cap in depth_caps[1:]):
            raise ConfigError(f"depth_caps: all after the first must be 0 or more, got {list(depth_caps)}")
        self.most_pairs = most_pairs
        self.depth_caps = depth_caps
        self._observer = Observer()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Array -> shape."""
        return {"pairs": (self.most_pairs, len(PAIRS)), "request": (len(REQUEST),), "context": (len(CONTEXT),)}

    def bounds(self) -> dict[str, tuple[Observed, Observed]]:
        """Array -> least and greatest values, of its shape."""
        rows = (self.most_pairs, 1)
        return {
            "pairs": (np.tile(PAIRS.low, rows), np.tile(PAIRS.high, rows)),
            "request": (REQUEST.low, REQUEST.high),
            "context": (CONTEXT.low, CONTEXT.high),
        }

    def schema(self) -> dict[str, Any]:
        """Everything that an observation's and an action's meaning depends on, in plain values."""
        return {
            "format": 1,
            "shapes": {name: list(shape) for name, shape in self.shapes().items()},
            "pairs": PAIRS.schema(),
            "request": REQUEST.schema(),
            "context": CONTEXT.schema(),
            "depth_caps": list(self.depth_caps),
        }

    def schema_hash(self) -> str:
        """SHA-256 of the schema; a policy serves only with the one that it was trained with."""
        return fingerprint(self.schema())

    def empty(self) -> dict[str, Observed]:
        """The observation of no decision, as after the end of an episode."""
        zeros = {name: np.zeros(shape, np.float32) for name, shape in self.shapes().items()}
        return {name: np.clip(zeros[name], low, high) for name, (low, high) in self.bounds().items()}

    def question(self, assessment: Assessment, best: Place, signals: Signals, beat: Beat) -> Question:
        """One decision as arrays. best: what FlowGuard itself takes (`FlowGuard.best`)."""
        places = self.places(assessment, best)
        heuristic = places.index(best)
        rows: Mask = np.zeros(self.most_pairs, bool)
        rows[: len(places)] = True
        pairs, request, context = self._observer.observe(assessment, places, heuristic, signals, beat)
        padded = np.zeros(self.shapes()["pairs"], np.float32)
        padded[: len(places)] = pairs
        observation = {"pairs": padded, "request": request, "context": context}
        return Question(observation, places, heuristic, rows, self._depths(assessment, places), assessment)

    def places(self, assessment: Assessment, best: Place) -> tuple[Place, ...]:
        """The pairs that become rows, in the lanes' order.

        All that can be chosen or, if they are too many: the best, half of the rows for pairs of a lane with itself,
        then the best of the others.
        """
        total = assessment.total
        possible = np.argwhere(total > -np.inf)
        if len(possible) > self.most_pairs:
            possible = self._foremost(possible, total, assessment.view.block.split, best)
        return tuple(map(tuple, possible.tolist()))

    def mask(self, question: Shown, depth: bool) -> Mask:
        """Which actions are valid: (P * K,) with depth, else (P,)."""
        return question.depths.ravel() if depth else question.rows

    def heuristic_action(self, question: Shown, depth: bool) -> int:
        """What FlowGuard itself does."""
        return question.heuristic * len(self.depth_caps) if depth else question.heuristic

    def answer(self, question: Shown, action: int, depth: bool) -> Answer | None:
        """What an action means here, None if it is not valid."""
        mask = self.mask(question, depth)
        if not (0 <= action < len(mask) and mask[action]):
            return None
        row, cap = divmod(action, len(self.depth_caps)) if depth else (action, 0)
        return Answer(question.places[row], self.depth_caps[cap])

    def decide(
        self, flowguard: FlowGuard, question: Question, answer: Answer, router: str = "", reason: str = ""
    ) -> Decision:
        """The answer as FlowGuard's decision, which it remembers to learn from. router: whose choice it is."""
        decision = flowguard.choose(question.assessment, answer.place, router, reason)
        return decision if answer.max_depth is None else replace(decision, max_depth=answer.max_depth)

    def _foremost(self, possible: NDArray[np.int64], total: Floats, split: Mask, best: Place) -> NDArray[np.int64]:
        scores = total[possible[:, 0], possible[:, 1]].copy()
        # Among equals FlowGuard takes turns, so its choice need not be the first of them.
        scores[(possible == best).all(axis=1)] = np.inf
        by_score = np.argsort(-scores, kind="stable")
        own = by_score[~split[possible[by_score, 0], possible[by_score, 1]]][: self.most_pairs // 2]
        kept = np.concatenate([by_score[:1], own, by_score])
        _, first = np.unique(kept, return_index=True)
        foremost: NDArray[np.int64] = possible[np.sort(kept[np.sort(first)][: self.most_pairs])]
        return foremost

    def _depths(self, assessment: Assessment, places: tuple[Place, ...]) -> Mask:
        """A cap changes nothing on a lane that does not speculate now, nor one that is not below the client's own."""
        view = assessment.view
        asked = view.request.max_depth
        below = [cap is None or asked is None or cap < asked for cap in self.depth_caps]
        plain = [cap is None for cap in self.depth_caps]
        depths: Mask = np.zeros((self.most_pairs, len(self.depth_caps)), bool)
        for row, (_, column) in enumerate(places):
            depth = view.lanes.snapshots[int(view.block.decode[column])].depth
            depths[row] = below if depth is not None and depth.mode is not DepthMode.OFF else plain
        return depths
