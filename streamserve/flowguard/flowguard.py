"""FlowGuard: filter, score, pick, over pairs of lanes, with predictions learned from live signals."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from streamserve.config import FlowGuardConfig
from streamserve.errors import ConfigError
from streamserve.flowguard import kernels
from streamserve.flowguard.assessment import Assessment, Place, View
from streamserve.flowguard.caches import Caches
from streamserve.flowguard.pairs import DEGRADED, Block, Candidates, Floats, Mask, Pairs, Places, Topology
from streamserve.flowguard.predict import Forecast, Predictor, waited_s
from streamserve.flowguard.scorers import SCORERS
from streamserve.flowguard.suspicion import Doubts, Suspicion
from streamserve.flowguard.table import LaneTable, LaneVectors
from streamserve.signals import Signals
from streamserve.types import Candidate, Decision, Request, Result

MOST_LANES = 64
"""With more lanes, only the best `KEPT` of each kind are paired and scored."""
KEPT = 32
BEST = 3
"""Candidates told in a decision."""
TIE = 0.001
"""Scores as near as this are equal: no model is that exact, and taking turns keeps every lane known."""


class FlowGuard:
    """The default router: the pair of the best weighted score among those that are not under suspicion.

    Raises `ConfigError` on weights, staleness or a probe share that cannot work.
    """

    name = "flowguard"

    def __init__(self, pairs: Pairs, config: FlowGuardConfig | None = None) -> None:
        config = config or FlowGuardConfig()
        weights = _weighted(config.weights)
        self._weights = np.array(list(weights.values()))
        self._whole = float(self._weights.sum())
        self._off = [name for name, weight in weights.items() if weight == 0]
        self._tie = TIE * self._whole
        if not config.stale_s > 0:
            raise ConfigError(f"flowguard.stale_s must be above 0, got {config.stale_s}")
        if not 0 < config.probe_share <= 1:
            raise ConfigError(f"flowguard.probe_share must be above 0 and at most 1, got {config.probe_share}")
        self._topology = Topology(pairs)
        self._everyone = Block.all(0)
        self._table = LaneTable(config.stale_s)
        self._caches = Caches()
        self._predictor = Predictor()
        self._suspicion = Suspicion(config.stale_s, config.probe_share)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        assessment = self.assess(request, signals)
        return self.choose(assessment, self.best(assessment))

    def assess(self, request: Request, signals: Signals) -> Assessment:
        """Filter and score, and choose nothing. Raises `NoLane`."""
        field = self._topology.candidates(request, signals)
        lanes = self._table.read(signals)
        doubts = self._suspicion.observe(lanes, signals.at_s)
        field, probed = self._filter(field, doubts)
        cached = self._caches.look(request, lanes)
        mask = field.roomy
        block = self._block(request, lanes, cached.tokens, signals.at_s, mask)
        if not block.whole:
            mask = mask[np.ix_(block.prefill, block.decode)]
        met = self._predictor.situation(request, lanes, cached.tokens, signals.at_s, block)
        said, scores, total = kernels.blank(mask.shape), np.empty((*mask.shape, len(SCORERS))), np.empty(mask.shape)
        kernels.judge(met, mask, self._weights, said, scores, total)
        view = View(request, lanes, Forecast.of(met, said), block, mask, waited_s(request, signals.at_s))
        return Assessment(view, signals.at_s, total, scores, cached, doubts, probed, field.degraded)

    def best(self, assessment: Assessment) -> Place:
        """The pair of the best score; among equals, the one that was chosen longest ago."""
        total = assessment.total
        return self._topology.oldest(total >= total.item(total.argmax()) - self._tie, assessment.view.block)

    def choose(self, assessment: Assessment, chosen: Place, router: str = "", reason: str = "") -> Decision:
        """The request goes to this pair of its assessment, by FlowGuard's own choice or by that of `router`."""
        view = assessment.view
        block = view.block
        self._predictor.chosen(view.request, view.lanes, view.forecast, block, chosen, assessment.at_s)
        row, column = chosen
        self._caches.sent(assessment.cached, view.lanes, int(block.prefill[row]), int(block.decode[column]))
        best = self._best(assessment, chosen)
        if not reason:
            reason = DEGRADED if assessment.degraded else _reason(assessment, chosen)
        return Decision(
            prefill=best[0].prefill,
            decode=best[0].decode,
            router=router or self.name,
            reason=reason,
            scores=best[0].scores,
            prediction=best[0].prediction,
            candidates=best,
            at_s=assessment.at_s,
        )

    def learn(self, result: Result) -> None:
        """Correct predictions and doubts by how a request turned out."""
        self._suspicion.learn(result)
        self._predictor.learn(result)

    def _filter(self, field: Candidates, doubts: Doubts) -> tuple[Candidates, int | None]:
        """The field without suspects, or the suspect whose turn it is to be probed.

        Before room is looked at: a lane that fails everything at once always has room.
        """
        if not doubts.some:
            return field, None
        trusted = field.without(doubts.suspects)
        # Avoiding nobody, because nobody else can serve, is probe enough.
        if trusted.mask is field.mask:
            return field, None
        probed = self._suspicion.probe(doubts.probable & (field.mask.any(0) | field.mask.any(1)))
        return (trusted, None) if probed is None else (field.only(probed), probed)

    def _block(self, request: Request, lanes: LaneVectors, cached_tokens: Floats, at_s: float, mask: Mask) -> Block:
        """Lanes to consider for prefill and for decode: all, or beyond `MOST_LANES` the cheapest of each."""
        count = len(lanes.lanes)
        if count <= MOST_LANES:
            if len(self._everyone.prefill) != count:
                self._everyone = Block.all(count)
            return self._everyone
        prefill_s, decode_s = self._predictor.marginal_s(request, lanes, cached_tokens, at_s)
        prefill = _cheapest(prefill_s, prefill_s + decode_s, np.any(mask, axis=1), mask.diagonal())
        partners: Mask = np.any(mask[prefill], axis=0)
        decode = _cheapest(decode_s, prefill_s + decode_s, partners, mask.diagonal() & partners)
        return Block.of(prefill, decode)

    def _best(self, assessment: Assessment, chosen: Place) -> tuple[Candidate, ...]:
        """The chosen pair and the best of the others."""
        view, scores = assessment.view, assessment.scores
        lanes, block = view.lanes.lanes, view.block
        left = assessment.total.ravel().copy()
        width = len(block.decode)
        pair = chosen[0] * width + chosen[1]
        best: list[tuple[int, float]] = []
        while len(best) < BEST and (score := left.item(pair)) > -math.inf:
            best.append((pair, score))
            # Three times the best is found faster than the best three.
            left[pair] = -math.inf
            pair = int(left.argmax())
        each = scores.reshape(-1, len(self._weights)).take([pair for pair, _ in best], axis=0).tolist()
        return tuple(
            Candidate(
                lanes[block.prefill.item(pair // width)],
                lanes[block.decode.item(pair % width)],
                score / self._whole,
                self._named(by_scorer),
                self._predictor.prediction(view.forecast, divmod(pair, width), view.request),
            )
            for (pair, score), by_scorer in zip(best, each, strict=True)
        )

    def _named(self, scores: Sequence[float]) -> dict[str, float]:
        named = dict(zip(SCORERS, scores, strict=True))
        for name in self._off:
            del named[name]
        return named


def _weighted(weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in SCORERS:
            raise ConfigError(f"flowguard.weights: no scorer {name!r}; known: {', '.join(SCORERS)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"flowguard.weights.{name} must be a number from 0 on, got {weight}")
    chosen = {name: weights.get(name, default) for name, default in SCORERS.items()}
    if not any(chosen.values()):
        raise ConfigError("flowguard.weights: at least one scorer needs a weight above 0")
    return chosen


def _cheapest(costs_s: Floats, alone_s: Floats, allowed: Mask, can_alone: Mask) -> Places:
    """Places of half `KEPT` lanes that are cheap in this role, and half that are cheap in both at once."""
    in_role = np.where(allowed, costs_s, np.inf).argsort()[:KEPT]
    alone = np.where(can_alone, alone_s, np.inf).argsort()[: KEPT // 2]
    alone = alone[can_alone[alone]]
    rest = in_role[allowed[in_role] & ~np.isin(in_role, alone)][: KEPT - len(alone)]
    return np.sort(np.concatenate([alone, rest]))


def _reason(assessment: Assessment, place: Place) -> str:
    view, doubts, probed = assessment.view, assessment.doubts, assessment.probed
    prefill, decode = view.block.prefill[place[0]], view.block.decode[place[1]]
    lanes = view.lanes.lanes
    if probed is not None:
        return f"probe of {lanes[probed]}: {doubts.reasons[probed]}"
    reason = _split_reason(view, place) if prefill != decode else f"both on {lanes[prefill]}"
    if doubts.some:
        avoided = ", ".join(
            f"{lane} ({why})" for lane, why in zip(lanes, doubts.reasons, strict=True) if why is not None
        )
        return f"{reason}; doubts {avoided}"
    return reason


def _split_reason(view: View, place: Place) -> str:
    alone = view.mask & ~view.block.split
    if not alone.any():
        return "split: no lane may serve it alone"
    saved_s = float(view.forecast.cost_s[alone].min() - view.forecast.cost_s[place])
    return f"split: saves {saved_s:.2g} s" if saved_s > 0 else "split: better by its other scores"
