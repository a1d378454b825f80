"""Routers that look at no load: round robin and random."""

import numpy as np

from streamserve.flowguard.pairs import LearnsNothing, Pairs, Topology
from streamserve.signals import Signals
from streamserve.types import Decision, Request


class RoundRobin(LearnsNothing):
    """The ready pair that was chosen longest ago."""

    name = "round_robin"

    def __init__(self, pairs: Pairs) -> None:
        self._topology = Topology(pairs)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        field = self._topology.candidates(request, signals)
        prefill, decode = self._topology.oldest(field.roomy)
        return field.decision((prefill, decode), self.name, "next in turn", signals.at_s)


class Random(LearnsNothing):
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
        return field.decision((prefill, decode), self.name, "drawn at random", signals.at_s)
