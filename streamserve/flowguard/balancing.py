"""Routers that balance counts: least loaded, power of two choices, and vLLM's own rule."""

import numpy as np

from streamserve.flowguard.pairs import Floats, LearnsNothing, Pairs, Topology
from streamserve.flowguard.table import LaneTable, LaneVectors
from streamserve.signals import Signals
from streamserve.types import Decision, Request

DECODE_COST_TOKENS = 128
"""What one decoding request costs a lane, in prompt tokens.

On a CPU lane one more request in the batch adds about as much to a step as 1.5 prompt tokens take, for some 100 steps.
"""


class LeastLoaded(LearnsNothing):
    """The ready pair with the least work in front of the request; ties go to the one chosen longest ago.

    A lane's work, in prompt tokens, is what it has yet to prefill plus `DECODE_COST_TOKENS` for each request that
    decodes there or will. The request waits for its prefill lane's work before its first token and shares its decode
    lane's steps after it, so a pair costs the sum of both; a lane paired with itself counts twice, once for each part.
    The counts are the scheduler's own and never stale.
    """

    name = "least_loaded"

    def __init__(self, pairs: Pairs) -> None:
        self._topology = Topology(pairs)
        self._table = LaneTable()

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        field = self._topology.candidates(request, signals)
        lanes = self._table.read(signals)
        work = lanes.prefill_tokens + DECODE_COST_TOKENS * lanes.decode_requests
        prefill, decode = self._topology.least(field.roomy, work[:, None] + work[None, :])
        scores = {"prefill_work_tokens": float(work[prefill]), "decode_work_tokens": float(work[decode])}
        return field.decision((prefill, decode), self.name, "least work", signals.at_s, scores)


class PowerOfTwo(LearnsNothing):
    """Of two ready pairs drawn at random, the one with fewer requests in flight. seed: of its own generator.

    Mitzenmacher, The power of two choices in randomized load balancing (2001).
    """

    name = "power_of_two"

    def __init__(self, pairs: Pairs, seed: int = 0) -> None:
        self._topology = Topology(pairs)
        self._table = LaneTable()
        self._generator = np.random.default_rng(seed)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        field = self._topology.candidates(request, signals)
        requests = self._table.read(signals).own_requests
        drawn = np.zeros(field.mask.size, bool)
        places = np.flatnonzero(field.roomy)
        first = int(self._generator.integers(len(places)))
        second = int(self._generator.integers(max(1, len(places) - 1)))
        # Two different ones, where there are two.
        drawn[places[[first, (first + 1 + second) % len(places)]]] = True
        mask = drawn.reshape(field.mask.shape)
        prefill, decode = self._topology.least(mask, requests[:, None] + requests[None, :])
        scores = {"prefill_requests": float(requests[prefill]), "decode_requests": float(requests[decode])}
        return field.decision((prefill, decode), self.name, "the emptier of two drawn", signals.at_s, scores)


class VllmDp(LearnsNothing):
    """The rule of vLLM's data-parallel balancer: least 4 x waiting + running, of both lanes of a pair.

    With the correction for requests that the engine has not reported yet: waiting + running is at least our own count
    of requests in flight. (vLLM 0.32 weights waiting by how full the KV cache is; before that, by 4.)
    """

    name = "vllm_dp"

    def __init__(self, pairs: Pairs) -> None:
        self._topology = Topology(pairs)
        self._table = LaneTable()

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        field = self._topology.candidates(request, signals)
        scores = vllm_dp_scores(self._table.read(signals))
        prefill, decode = self._topology.least(field.roomy, scores[:, None] + scores[None, :])
        told = {"prefill_score": float(scores[prefill]), "decode_score": float(scores[decode])}
        return field.decision((prefill, decode), self.name, "least 4 x waiting + running", signals.at_s, told)


def vllm_dp_scores(lanes: LaneVectors) -> Floats:
    """4 x waiting + running of each lane, as the engine said; waiting + running at least our own count."""
    waiting, running = lanes.reported_waiting, lanes.reported_running
    scores: Floats = 3.0 * waiting + np.maximum(lanes.own_requests, waiting + running)
    return scores
