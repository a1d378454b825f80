"""Policies, cards and moments that tests are made of."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamserve.config import Config, LaneConfig, PolicyConfig
from streamserve.policy import interface
from streamserve.policy.card import Bounds, CalibrationOf, Card, Kind, Score, Topology
from streamserve.policy.codec import Codec
from streamserve.policy.lane_codec import LaneCodec
from streamserve.policy.network import Weights
from streamserve.policy.store import Policy
from streamserve.signals import DepthControl, LaneLoad, LaneSignals, Signals, StepCost
from streamserve.types import LaneId, LaneState, Request

LANES = (LaneId("a"), LaneId("b"))
PAIRS = tuple((prefill, decode) for prefill in LANES for decode in LANES)
UNBOUNDED = 1e9


def make_card(kind: Kind = "serve", **fields: Any) -> Card:
    """A card that fits its kind, with an envelope that holds everything; not saved, so without hashes."""
    codec = LaneCodec() if kind == "spec" else Codec()
    width = {array: shape[-1] for array, shape in codec.shapes().items()}
    known: dict[str, Any] = {
        "name": "test",
        "kind": kind,
        "codec": interface.described(codec),
        "envelope": {array: Bounds([-UNBOUNDED] * n, [UNBOUNDED] * n) for array, n in width.items()},
        "heuristic": "flowguard",
        "topologies": [Topology(2, 4)],
        "calibration": CalibrationOf("test", "0" * 64, "embedded", "cpu"),
        "workloads": ["chat"],
        "seeds": [0, 1],
        "steps": 1000,
        "command": "streamserve train",
        "date": "2026-01-01",
        "libraries": {"numpy": np.__version__},
        "scores": [Score("steady", 0.05, 0.02, 0.08)],
    }
    return Card(**(known | fields))


def make_weights(kind: Kind = "serve", seed: int = 0, trained: bool = False, **scale: float) -> Weights:
    """Untrained weights, or such whose residual is anything."""
    codec = LaneCodec() if kind == "spec" else Codec()
    inputs = sum(shape[-1] for shape in codec.shapes().values())
    choices = {"spec": len(LaneCodec().controls), "serve": len(Codec().depth_caps), "route": 1}[kind]
    rng = np.random.default_rng(seed)
    values = {"tau": 4.0, "kappa": 2.0, "penalty": 1.0} | scale
    weights = Weights.untrained(inputs, choices, rng, (values["tau"], values["kappa"], values["penalty"]))
    if not trained:
        return weights
    arrays = weights.arrays()
    arrays["W4"] = rng.standard_normal(arrays["W4"].shape).astype(np.float32)
    arrays["b4"] = rng.standard_normal(arrays["b4"].shape).astype(np.float32)
    return Weights.of(arrays)


def make_policy(kind: Kind = "serve", seed: int = 0, trained: bool = False, **scale: float) -> Policy:
    return Policy(make_card(kind), make_weights(kind, seed, trained, **scale))


def choosing(cap: int) -> Policy:
    """A policy that takes the choice of this index on every row, and FlowGuard's pair."""
    arrays = make_weights(kappa=10.0, tau=1.0, penalty=0.0).arrays()
    arrays["b4"][cap] = 5.0
    return Policy(make_card(), Weights.of(arrays))


def make_config(**policy: Any) -> Config:
    return Config(lanes=[LaneConfig(lane) for lane in LANES], policy=PolicyConfig(**policy))


def lane(id: LaneId, at_s: float, draw: random.Random) -> LaneSignals:
    price = draw.uniform(0.5, 2.0)
    return LaneSignals(
        id,
        LaneState.READY if draw.random() < 0.95 else LaneState.LOST,
        at_s,
        running=draw.randrange(8),
        waiting=draw.randrange(3),
        kv_used=draw.random(),
        kv_tokens=40_000,
        cost=StepCost(((1, 0.03 * price), (8, 0.05 * price), (64, 0.2 * price)), 0.001 * price, 50),
        step_output=draw.uniform(1.0, 2.5),
        depth=draw.choice([None, DepthControl()]),
    )


def moments(count: int, seed: int = 0, lanes: tuple[LaneId, ...] = LANES) -> Iterator[tuple[Request, Signals]]:
    """Requests and what is seen when they are routed; a lane is ready at each."""
    draw = random.Random(seed)
    for number in range(count):
        at_s = 0.05 * number
        snapshots = {id: lane(id, at_s, draw) for id in lanes}
        if all(each.state is LaneState.LOST for each in snapshots.values()):
            continue
        load = {id: LaneLoad(draw.randrange(3), draw.randrange(800), draw.randrange(6)) for id in lanes}
        prompt = tuple(draw.randrange(1000) for _ in range(draw.randrange(1, 200)))
        yield Request(f"r{number}", prompt, 64, at_s, continuable=True), Signals(at_s, snapshots, load)
