"""Contests by name: which systems, and the load that shows in what they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamserve import config as configuration
from streamserve.bench.contest.settings import ALONE, BURST
from streamserve.config import Config
from streamserve.errors import ConfigError

PAPER_WORKLOADS = ("alpaca", "gsm8k", "humaneval", "sum")
OFF = ("speculation.method=none", "speculation.mode=off")


@dataclass(frozen=True, slots=True)
class Topology:
    """A configuration and what is changed in it."""

    title: str
    config: str
    changes: tuple[str, ...] = ()

    @property
    def system(self) -> str:
        """Its name as a system of the contest."""
        return "+".join((f"streamserve:{self.config}", *self.changes))


@dataclass(frozen=True, slots=True)
class Preset:
    """A contest: its systems, and the settings that hold where the command line says nothing else."""

    systems: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Settings`."""


NAMES: Mapping[str, str] = {
    "smoke": "StreamServe and vLLM, a few made-up prompts: does everything run?",
    "baselines": "StreamServe against vLLM without and with drafts, and with drafts data parallel and 1P1D",
    "components": "StreamServe without P/D, routing, speculation: what each adds; fixed against adaptive depth",
    "topology": "one lane over everything, static 1P1D, two elastic lanes",
    "paper": "the paper's own definition: 80 queries of each workload against tensor-parallel vLLM",
}


def preset(name: str, config: str, policies: Sequence[str] = ()) -> Preset:
    """A contest by its name.

    config: the shipped configuration that this machine runs by default. policies: trained ones to compare with the
    heuristic. Raises `ConfigError` for another name, or for a machine with a single lane where lanes are compared.
    """
    bursty: Mapping[str, Any] = {"arrivals": ("poisson", "gamma:5"), "loads": (0.8,)}
    match name:
        case "smoke":
            few = {"requests": 8, "repeats": 1, "loads": (0.5,), "length_scale": 0.5}
            return Preset((f"streamserve:{config}", "vllm"), few)
        case "baselines":
            # StreamServe drafts: layouts without drafts would lose for another reason than their layout.
            return Preset((f"streamserve:{config}", "vllm", "vllm-spec", "vllm-dp-spec", "vllm-pd-spec"), bursty)
        case "components":
            return Preset(tuple(each.system for each in components(config, policies)), bursty)
        case "topology":
            return Preset(tuple(each.system for each in topologies(config)), bursty)
        case "paper":
            alone = {"workloads": PAPER_WORKLOADS, "arrivals": (ALONE, BURST), "requests": 80, "repeats": 1}
            return Preset((f"streamserve:{config}", "vllm"), alone)
    raise ConfigError(f"there is no preset {name!r}: choose {', '.join(NAMES)}")


def components(config: str, policies: Sequence[str] = ()) -> list[Topology]:
    """The whole, the whole without one component each, and none of them; prefix caching stays on throughout."""
    _lanes(config)
    round_robin = "router=round_robin"
    return [
        Topology("everything, heuristic", config, ("policy.source=heuristic",)),
        *(Topology(f"learned: {each}", config, (f"policy.source={each}",)) for each in policies),
        Topology("no P/D: every lane serves whole requests", config, ("policy.source=heuristic", "pairs=own")),
        Topology("no routing: round robin over all pairs", config, (round_robin,)),
        Topology("no speculation", config, ("policy.source=heuristic", *OFF)),
        Topology("fixed depth 3", config, ("policy.source=heuristic", "speculation.mode=fixed", "speculation.depth=3")),
        Topology("none of them", config, (round_robin, "pairs=own", *OFF)),
    ]


def topologies(config: str) -> list[Topology]:
    """What `--pick` chooses among; the first is what `streamserve serve` takes of itself."""
    loaded = _lanes(config)
    ids = [lane.id for lane in loaded.lanes]
    split = ",".join(f"[{prefill},{decode}]" for prefill, decode in zip(ids[::2], ids[1::2], strict=False))
    return [
        Topology(f"{len(ids)} elastic lanes", config),
        Topology("static 1P1D", config, (f"pairs=[{split}]",)),
        _unified(loaded, config),
    ]


def _unified(loaded: Config, config: str) -> Topology:
    """One lane over everything that the lanes of a configuration have."""
    if loaded.device == "cpu":
        return Topology("one lane", "unified")
    gpus = sorted({gpu for lane in loaded.lanes for gpu in lane.gpus})
    lane = f"{{id: lane-0, gpus: {gpus}, tensor_parallel_size: {len(gpus)}}}"
    return Topology("one lane", config, (f"lanes=[{lane}]",))


def _lanes(config: str) -> Config:
    loaded = configuration.load(config)
    if len(loaded.lanes) < 2:
        raise ConfigError(
            f"this machine runs one lane ({config}), so there is nothing to compare: use one with two cores or a GPU, "
            "or name systems with --systems"
        )
    return loaded
