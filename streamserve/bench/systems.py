"""The systems that `streamserve.bench.routing` compares: routers and orders over lanes, and one plain engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from streamserve import config as configuration
from streamserve.bench.rig import Rig
from streamserve.config import Config, LaneConfig, SchedulerConfig
from streamserve.errors import ConfigError
from streamserve.types import LaneId

LANES = "lanes"
PLAIN = "plain"
DIRECT: Literal["direct"] = "direct"
LATE: Literal["late"] = "late"
ORDERS: tuple[str, ...] = get_args(get_type_hints(SchedulerConfig)["order"])


@dataclass(frozen=True, slots=True)
class System:
    """What serves a run: a set of lanes, and how requests come to them."""

    name: str
    lane_set: str
    router: str
    order: str
    binding: Literal["auto", "direct", "late"] = "auto"
    """Whether requests wait in our queue while every lane is busy with prompts: as configured, never, always."""

    def config(self, ready: Rig) -> Config:
        """The configuration of its set of lanes, with its router and its order."""
        return self.over(ready.sets[self.lane_set].config)

    def over(self, config: Config) -> Config:
        """A configuration with this system's router and order."""
        scheduler: dict[str, Any] = {"order": self.order}
        if self.binding == DIRECT:
            scheduler["backlog_s"] = None
        elif self.binding == LATE:
            scheduler["late_binding"] = "always"
        settings = msgspec.structs.replace(config.scheduler, **scheduler)
        return msgspec.structs.replace(config, router=self.router, scheduler=settings)


PLAIN_ENGINE = System(PLAIN, PLAIN, "round_robin", "fcfs", DIRECT)
"""vLLM as it is: one engine over all cores, and every request goes to it at once."""


def parse(text: str, order: str) -> System:
    """A system from its text: ROUTER, then +ORDER, and +direct or +late for its binding. Raises `ConfigError`."""
    router, *modifiers = text.split("+")
    binding: Literal["auto", "direct", "late"] = "auto"
    for modifier in modifiers:
        if modifier in ORDERS:
            order = modifier
        elif modifier == DIRECT:
            binding = DIRECT
        elif modifier == LATE:
            binding = LATE
        else:
            known = f"{DIRECT}, {LATE} or an order ({', '.join(ORDERS)})"
            raise ConfigError(f"system {text!r}: {modifier!r} is none of {known}")
    return System(text, LANES, router, order, binding)


def configs(lanes: int, cores: int, baseline_depth: int | None, overrides: Sequence[str]) -> Mapping[str, Config]:
    """The sets of lanes to bring up: `lanes` of one core each and, with a depth, one engine over all cores.

    cores: of this machine; with fewer than lanes they are shared. baseline_depth: the static depth of the one engine.
    overrides: of both, so that they stay comparable.
    """
    config = configuration.load("cpu-pair", overrides)
    places = [LaneConfig(id=LaneId(f"lane-{i}"), cores=1) for i in range(lanes)]
    sets = {LANES: msgspec.structs.replace(config, lanes=places, pairs="all", share_cores=lanes > cores)}
    if baseline_depth is not None:
        drafting = ["speculation.mode=fixed", f"speculation.depth={baseline_depth}"]
        off = ["speculation.method=none", "speculation.mode='off'"]
        sets[PLAIN] = configuration.load("unified", [*overrides, *(drafting if baseline_depth else off)])
    return sets
