"""Routers that look at no load: round robin and random."""

import numpy as np

from streamserve.flowguard.pairs import DEGRADED, Pairs, Topology
from streamserve.signals import Signals
from streamserve.types import Decision, Request, Result


class RoundRobin:
    """The ready pair that was chosen longest ago."""

    name = "round_robin"

    def __init__(self, pairs: Pairs) -> None:
        self._topology = Topology(pairs)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        field = self._topology.candidates(request, signals)
        prefill, decode = self._topology.oldest(field.roomy)
        reason = DEGRADED if field.degraded else "next in turn"
        return Decision(field.lanes[prefill], field.lanes[decode], self.name, reason, at_s=signals.at_s)

    def learn(self, result: Result) -> None:
        """Nothing to learn."""


class Random:
    """Any ready pair, each as likely as the others. seed: of its own generator."""

    name = "random"

    def __init__(self, pairs: Pairs, seed: int = 0) -> None:
        self._topology = Topology(pairs)
        self._generator = np.random.default_rng(seed)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        field = self._topology.candidates(request, signals)
        places = np.flatnonzero(field.roomy)
        prefill, decode = divmod(int(places[self._generator.integers(len(places))]), len(field.lanes))
        reason = DEGRADED if field.degraded else "drawn at random"
        return Decision(field.lanes[prefill], field.lanes[decode], self.name, reason, at_s=signals.at_s)

    def learn(self, result: Result) -> None:
        """Nothing to learn."""
