"""The systems that `streamserve.bench.routing` compares: routers and orders over lanes, and one plain engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from streamserve import config as configuration
from streamserve.bench.rig import Rig
from streamserve.config import Config, LaneConfig, SchedulerConfig
from streamserve.errors import ConfigError, PolicyError
from streamserve.policy.switch import PolicySwitch
from streamserve.types import LaneId

LANES = "lanes"
PLAIN = "plain"
DIRECT: Literal["direct"] = "direct"
LATE: Literal["late"] = "late"
OWN: Literal["own"] = "own"
POLICY = "+policy="
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
    own_pairs: bool = False
    """Whether every lane is paired with itself only, so that no request is split, whatever the configured pairs."""
    policy: str | None = None
    """The trained policy on top of the router: a folder, or a shipped one's name."""

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
        source = "heuristic" if self.policy is None else self.policy
        policy = msgspec.structs.replace(config.policy, source=source)
        pairs = OWN if self.own_pairs else config.pairs
        return msgspec.structs.replace(config, router=self.router, scheduler=settings, policy=policy, pairs=pairs)

    def switch(self, ready: Rig) -> PolicySwitch | None:
        """Its policy as a new router, guard and all; None without one. Raises `PolicyError`."""
        if self.policy is None:
            return None
        made = PolicySwitch(self.config(ready))
        if (refused := made.report()["refused"]) is not None:
            raise PolicyError(refused)
        return made


PLAIN_ENGINE = System(PLAIN, PLAIN, "round_robin", "fcfs", DIRECT)
"""vLLM as it is: one engine over all cores, and every request goes to it at once."""


def parse(text: str, order: str, live: bool = False) -> System:
    """A system from its text: ROUTER, then +ORDER, +direct or +late, +own, and +policy=FOLDER at the end.

    live: of live lanes; only they are served with policies here. Raises `ConfigError`.
    """
    plain, _, policy = text.partition(POLICY)
    if policy and not live:
        raise ConfigError(f"system {text!r}: compare policies over simulated lanes with streamserve evaluate")
    router, *modifiers = plain.split("+")
    binding: Literal["auto", "direct", "late"] = "auto"
    own_pairs = False
    for modifier in modifiers:
        if modifier in ORDERS:
            order = modifier
        elif modifier == DIRECT:
            binding = DIRECT
        elif modifier == LATE:
            binding = LATE
        elif modifier == OWN:
            own_pairs = True
        else:
            known = f"{DIRECT}, {LATE}, {OWN} or an order ({', '.join(ORDERS)}), with policy=FOLDER at the end"
            raise ConfigError(f"system {text!r}: {modifier!r} is none of {known}")
    return System(text, LANES, router, order, binding, own_pairs, policy or None)


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
