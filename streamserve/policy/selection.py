"""Selection: which of the shipped policies `auto` may load, told by their cards alone."""

from collections.abc import Sequence
from typing import NamedTuple

from streamserve.config import Config
from streamserve.policy.card import Card

MOST_LOSS = 0.02
"""A policy that loses more than this in any scenario is not proven."""
LEAST_SHARE = 0.5
"""Of the scenarios in which its gain is certain."""


class Verdict(NamedTuple):
    """Whether a policy is proven here, and if not, why."""

    card: Card
    obstacle: str | None


def judge(card: Card, config: Config) -> Verdict:
    """Whether the card shows a gain for this configuration's lanes, pairs, model and deadlines."""
    return Verdict(card, _not_made_for(card, config) or _not_proven(card))


def _not_made_for(card: Card, config: Config) -> str | None:
    lanes, pairs = len(config.lanes), len(config.stream_pairs())
    made = card.calibration
    if not card.made_for(lanes, pairs):
        return f"not trained for {lanes} lanes and {pairs} pairs"
    if (made.model, made.device) != (config.model, config.device):
        return f"trained for {made.model} on {made.device}"
    if card.deadlines is not None and (config.slo.ttft_s is None or config.slo.tpot_s is None):
        asked = f"slo.ttft_s={card.deadlines.ttft_s:g} and slo.tpot_s={card.deadlines.tpot_s:g}"
        return f"made to meet deadlines, and none are configured: set {asked}"
    return None


def _not_proven(card: Card) -> str | None:
    certain = sum(score.low > 0 for score in card.scores)
    if not card.scores or certain < LEAST_SHARE * len(card.scores):
        return f"a certain gain in {certain} of {len(card.scores)} scenarios only"
    worst = min(card.scores, key=lambda score: score.gain)
    if worst.gain < -MOST_LOSS:
        return f"loses {-worst.gain:.1%} in {worst.scenario}"
    if lost := [score for score in card.live if score.high < 0]:
        return f"loses {-lost[0].gain:.1%} on real lanes in {lost[0].scenario}"
    return None


def best(cards: Sequence[Card], config: Config) -> tuple[Card | None, str]:
    """The proven policy of the highest mean gain, None if there is none; and why in one line."""
    verdicts = [judge(card, config) for card in cards]
    proven = [verdict.card for verdict in verdicts if verdict.obstacle is None]
    if not proven:
        reasons = "; ".join(f"{card.name}: {obstacle}" for card, obstacle in verdicts) or "none is shipped"
        return None, f"no shipped policy is proven here ({reasons})"
    chosen = max(proven, key=_mean_gain)
    return chosen, f"its card shows a mean gain of {_mean_gain(chosen):.1%} here"


def _mean_gain(card: Card) -> float:
    return sum(score.gain for score in card.scores) / len(card.scores)
