"""Replay: routers that write decisions down, and routers that take what is written."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from streamserve.config import Config
from streamserve.flowguard import routers
from streamserve.flowguard.assessment import Assessment, Place
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.flowguard.pairs import Pair
from streamserve.protocols import Router
from streamserve.signals import Signals
from streamserve.types import Decision, Request, Result

Written = Mapping[str, Sequence[Decision]]
"""Request -> the decision at each of its attempts."""


class Recorder:
    """Writes down what another router decides."""

    def __init__(self, router: Router) -> None:
        self.written: dict[str, list[Decision]] = defaultdict(list)
        self._router = router

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises what the other one raises."""
        decision = self._router.route(request, signals)
        # Without what a replay has no use for; the prediction tells the scheduler how much is cached.
        self.written[request.id].append(replace(decision, candidates=(), scores={}))
        return decision

    def learn(self, result: Result) -> None:
        self._router.learn(result)


class Replay:
    """Gives every request the pairs that are written for it; where those are not ready, the least loaded one."""

    def __init__(self, written: Written, config: Config) -> None:
        self._written = written
        self._attempts: Counter[str] = Counter()
        self._otherwise = routers.build("least_loaded", config.stream_pairs())

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        decision = _next(self._written, self._attempts, request)
        if decision is not None and signals.ready(decision.prefill) and signals.ready(decision.decode):
            return replace(decision, at_s=signals.at_s)
        return self._otherwise.route(request, signals)

    def learn(self, result: Result) -> None:
        self._otherwise.learn(result)


class Repair:
    """FlowGuard, which takes what is written where something is and decides the rest: it makes up for a change."""

    def __init__(self, written: Written, config: Config) -> None:
        self._written = written
        self._attempts: Counter[str] = Counter()
        self._flowguard = FlowGuard(config.stream_pairs(), config.flowguard)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        assessment = self._flowguard.assess(request, signals)
        decision = _next(self._written, self._attempts, request)
        place = None if decision is None else _place(assessment, (decision.prefill, decision.decode))
        return self._flowguard.choose(assessment, self._flowguard.best(assessment) if place is None else place)

    def learn(self, result: Result) -> None:
        self._flowguard.learn(result)


def _next(written: Written, attempts: Counter[str], request: Request) -> Decision | None:
    attempt = attempts[request.id]
    attempts[request.id] += 1
    decisions = written.get(request.id, ())
    return decisions[attempt] if attempt < len(decisions) else None


def _place(assessment: Assessment, pair: Pair) -> Place | None:
    """Where the pair is among those that may be chosen; None where it is not."""
    view = assessment.view
    lanes, block = view.lanes.lanes, view.block
    rows, columns = (
        np.flatnonzero(places == lanes.index(lane))
        for places, lane in zip((block.prefill, block.decode), pair, strict=True)
    )
    if not (len(rows) and len(columns)) or not view.mask[rows[0], columns[0]]:
        return None
    return int(rows[0]), int(columns[0])
