"""Export: a learner's policy as data for serving, and its card."""

import shlex
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from agents.network import StreamPolicy
from agents.recipe import Recipe
from streamserve import __version__
from streamserve.config import Config
from streamserve.lanes.sim.calibration import Calibration
from streamserve.policy import store
from streamserve.policy.card import Bounds, CalibrationOf, Card, Kind, Topology
from streamserve.policy.codec import Codec
from streamserve.policy.interface import described
from streamserve.policy.lane_codec import LaneCodec
from streamserve.policy.schema import fingerprint

LIBRARIES = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy")
KINDS: dict[str, Kind] = {"Serve": "serve", "Route": "route", "Spec": "spec"}
HEURISTICS = {"Serve": "flowguard", "Route": "flowguard", "Spec": "specustream"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a policy comes from, as far as it is the same during a whole run."""

    name: str
    recipe: Recipe
    seed: int
    calibration: CalibrationOf
    codec: Codec | LaneCodec


@dataclass(frozen=True, slots=True)
class Seen:
    """What the environments have shown it."""

    envelope: dict[str, Bounds]
    topologies: Collection[Topology]


def export(folder: Path, policy: StreamPolicy, origin: Origin, seen: Seen, steps: int) -> Card:
    """Write `policy.npz` and `card.json`. Its scores are empty: what a run says of itself is what it was chosen by."""
    recipe = origin.recipe
    card = Card(
        name=origin.name,
        kind=KINDS[recipe.env],
        codec=described(origin.codec),
        envelope=seen.envelope,
        heuristic=HEURISTICS[recipe.env],
        topologies=sorted(seen.topologies, key=lambda each: (each.lanes, each.pairs)),
        calibration=origin.calibration,
        workloads=_workloads(recipe),
        seeds=[origin.seed],
        steps=steps,
        command=command(sys.argv),
        date=time.strftime("%Y-%m-%d"),
        libraries={"streamserve": __version__, **{name: version(name) for name in LIBRARIES}},
        scores=[],
        deadlines=recipe.deadlines,
    )
    return store.save(folder, card, policy.weights())


def calibration_of(name: str, calibration: Calibration | None, config: Config) -> CalibrationOf:
    """The calibration as a card names it; None = real lanes."""
    if calibration is None:
        return CalibrationOf("live", "", config.model, config.device)
    return CalibrationOf(name, fingerprint(msgspec.to_builtins(calibration)), calibration.origin.model, config.device)


def command(arguments: Sequence[str]) -> str:
    """The command line without the folder that the program lies in, and by its name where it ran as a module."""
    program = Path(arguments[0])
    return shlex.join([program.parent.name if program.name == "__main__.py" else program.name, *arguments[1:]])


def _workloads(recipe: Recipe) -> list[str]:
    given = recipe.env_kwargs
    # A folder by its own name: a card names no place of the machine that it was made on.
    lengths = str(given.get("workload", "128:100"))
    what = lengths if ":" in lengths else Path(lengths).name
    drawn = (given.get("randomise") or {}).get("arrivals") or [given.get("arrivals", "poisson")]
    return [f"{what} {process}" for process in drawn]
