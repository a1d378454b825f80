"""Routers that look for the prompt in the lanes' caches: LMetric's product, and cache first."""

import numpy as np

from streamserve.flowguard.caches import Outlook
from streamserve.flowguard.pairs import LearnsNothing, Pairs
from streamserve.signals import Signals
from streamserve.types import Decision, Request

FAR_APART_REQUESTS = 64
FAR_APART_RATIO = 1.5
LEAST_HIT = 0.3


class LMetric(LearnsNothing):
    """The least product of tokens to prefill and batch size: LMetric (arXiv 2603.15202), which needs no tuning.

    Tokens: those queued for prefill and those of this prompt that are not cached. Batch: the requests there and this
    one, so that an idle lane's product still tells prompts apart; a split pair's is the mean of its lanes' batches.
    """

    name = "lmetric"

    def __init__(self, pairs: Pairs) -> None:
        self._outlook = Outlook(pairs)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        seen = self._outlook.look(request, signals)
        field, lanes, cached = seen
        tokens = lanes.prefill_tokens + np.maximum(1.0, request.prompt_tokens - cached.tokens)
        half = 0.5 * lanes.batch
        products = tokens[:, None] * (1.0 + half[:, None] + half[None, :])
        prefill, decode = self._outlook.topology.least(field.roomy, products)
        self._outlook.sent(seen, prefill, decode)
        scores = {"product": float(products[prefill, decode]), "cached_tokens": float(cached.tokens[prefill])}
        return field.decision((prefill, decode), self.name, "least tokens to prefill x batch", signals.at_s, scores)


class PrefixAffinity(LearnsNothing):
    """The lane that holds most of the prompt, if at least 0.3 of it and the lanes are not too far apart.

    Else the pair with the fewest requests in flight. Too far apart: the fullest lane has more than 64 requests more
    than the emptiest, and more than 1.5 times as many. Rule and numbers of vllm-router's `cache_aware` (0.1.17).
    """

    name = "prefix_affinity"

    def __init__(self, pairs: Pairs) -> None:
        self._outlook = Outlook(pairs)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        seen = self._outlook.look(request, signals)
        field, lanes, cached = seen
        mask = field.roomy
        requests = lanes.own_requests
        taking_part = requests[mask.any(axis=0) | mask.any(axis=1)]
        most, fewest = float(taking_part.max()), float(taking_part.min())
        apart = most - fewest > FAR_APART_REQUESTS and most > FAR_APART_RATIO * fewest
        hits = np.where(mask.any(axis=1), cached.tokens, 0.0)
        share = float(hits.max()) / max(1, request.prompt_tokens)
        affine = not apart and share >= LEAST_HIT
        if affine:
            mask = mask & (hits == hits.max())[:, None]
        prefill, decode = self._outlook.topology.least(mask, requests[:, None] + requests[None, :])
        self._outlook.sent(seen, prefill, decode)
        reason = f"holds {share:.0%} of the prompt" if affine else "fewest requests"
        scores = {"cached_tokens": float(cached.tokens[prefill]), "decode_requests": float(requests[decode])}
        return field.decision((prefill, decode), self.name, reason, signals.at_s, scores)
