"""Served: a checkpoint's policy as serving computes it, over the observations of environments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.trial import Act, Observation
from streamserve.errors import ConfigError
from streamserve.policy.card import Card
from streamserve.policy.lane_codec import LANES
from streamserve.policy.layout import PAIRS
from streamserve.policy.network import Network, best
from streamserve.policy.store import Policy

ENVS = {"serve": "Serve", "route": "Route", "spec": "Spec"}
HEURISTIC, SCORE, PRESENT, COST = (PAIRS.places[name] for name in ("heuristic", "score", "present", "cost_s"))


def served(policy: Policy) -> Act:
    """The policy's likeliest actions, by the numpy network that `streamserve serve` runs. Its guard is not asked."""
    network = Network(policy.weights)
    choose = _lanes if policy.card.kind == "spec" else _pairs

    def act(batch: Observation, masks: NDArray[np.bool_]) -> Sequence[Any]:
        each = ({name: values[number] for name, values in batch.items()} for number in range(len(masks)))
        return [choose(network, observation, mask) for observation, mask in zip(each, masks, strict=True)]

    return act


def env_kwargs(card: Card) -> dict[str, Any]:
    """What an environment must be given to be observed as the policy was trained."""
    slo = {} if card.deadlines is None else {"slo": msgspec.structs.asdict(card.deadlines)}
    if card.kind == "spec":
        return {"most_lanes": card.codec.most_rows, **slo}
    return {"most_pairs": card.codec.most_rows, "depth_caps": tuple(card.codec.depth_caps), **slo}


def figure(card: Card) -> str:
    """Of `comparison.Figures`, the one that it is judged by."""
    return "cost" if card.deadlines is None else "slo_share"


def _pairs(network: Network, observation: Observation, mask: NDArray[np.bool_]) -> int:
    rows = observation["pairs"]
    count = int(rows[:, PRESENT].sum())
    rows = rows[:count]
    shared = np.concatenate([observation["request"], observation["context"]])
    logits = network.logits(rows, shared, rows[:, HEURISTIC] + rows[:, SCORE])
    choices = int(logits.shape[1])
    chosen = best(logits, mask.reshape(-1, choices)[:count])
    assert chosen is not None, "checked weights give finite logits"
    return chosen[0] * choices + chosen[1]


def _lanes(network: Network, observation: Observation, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    rows = observation["lanes"]
    count = int(rows[:, LANES.places["present"]].sum())
    actions = np.zeros(len(rows), np.int64)
    if count:
        logits = network.logits(rows[:count], observation["context"], np.zeros(count, np.float32))
        allowed = mask.reshape(len(rows), -1)[:count]
        actions[:count] = np.where(allowed, logits, -np.inf).argmax(axis=1)
    return actions


def baseline(name: str) -> Act:
    """Of `BASELINES`, for routing environments. Raises `ConfigError`."""
    if name not in BASELINES:
        raise ConfigError(f"no baseline {name!r}; known: {', '.join(BASELINES)}")
    return BASELINES[name]()


def _random() -> Act:
    rng = np.random.default_rng(0)

    def act(batch: Observation, masks: NDArray[np.bool_]) -> Sequence[Any]:
        choices = masks.shape[1] // batch["pairs"].shape[1]
        # Depths as the lanes decide, as the heuristic has it.
        return [int(rng.choice(np.flatnonzero(mask[::choices]))) * choices for mask in masks]

    return act


def _cheapest() -> Act:
    """The pair of the least predicted cost: seconds of its own, and of those that it makes wait."""

    def act(batch: Observation, masks: NDArray[np.bool_]) -> Sequence[Any]:
        choices = masks.shape[1] // batch["pairs"].shape[1]
        costs = np.where(masks[:, ::choices], batch["pairs"][:, :, COST], np.inf)
        return [int(row) * choices for row in costs.argmin(axis=1)]

    return act


BASELINES: Mapping[str, Callable[[], Act]] = {"random": _random, "cheapest": _cheapest}
