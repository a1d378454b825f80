"""Routers by name: those that ship, and a user's own by its dotted path."""

import importlib
from collections.abc import Callable

from streamserve.config import FlowGuardConfig
from streamserve.errors import ConfigError, one_line
from streamserve.flowguard.affinity import LMetric, PrefixAffinity
from streamserve.flowguard.balancing import LeastLoaded, PowerOfTwo, VllmDp
from streamserve.flowguard.blind import Random, RoundRobin
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.flowguard.foresight import PredictedLatency
from streamserve.flowguard.pairs import Pairs
from streamserve.protocols import Router

ROUTERS: dict[str, Callable[[Pairs], Router]] = {
    FlowGuard.name: FlowGuard,
    RoundRobin.name: RoundRobin,
    Random.name: Random,
    LeastLoaded.name: LeastLoaded,
    PowerOfTwo.name: PowerOfTwo,
    VllmDp.name: VllmDp,
    LMetric.name: LMetric,
    PrefixAffinity.name: PrefixAffinity,
    PredictedLatency.name: PredictedLatency,
}


def build(name: str, pairs: Pairs, flowguard: FlowGuardConfig | None = None) -> Router:
    """The router of that name over the configured pairs; with a dot, a class of the user's, made from the pairs.

    Raises `ConfigError`.
    """
    if name == FlowGuard.name:
        return FlowGuard(pairs, flowguard)
    if name in ROUTERS:
        return ROUTERS[name](pairs)
    if "." in name:
        return _imported(name, pairs)
    known = ", ".join(sorted(ROUTERS))
    raise ConfigError(
        f"router: no router {name!r}; choose one of {known}, or name a class of yours as package.module.Class"
    )


def _imported(path: str, pairs: Pairs) -> Router:
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        advice = "its folder must be installed or in PYTHONPATH"
        raise ConfigError(f"router: cannot import {module_name!r} ({one_line(error)}); {advice}") from error
    made_by = getattr(module, class_name, None)
    if made_by is None:
        raise ConfigError(f"router: {module_name} has no class {class_name!r}; check the spelling of router: {path}")
    if not callable(made_by):
        raise ConfigError(f"router: {path} is not a class; name one that is made from the pairs")
    try:
        router: Router = made_by(pairs)
    except Exception as error:
        raise ConfigError(f"router: {path}(pairs) failed: {one_line(error)}; it must take the pairs alone") from error
    lacking = [method for method in ("route", "learn") if not callable(getattr(router, method, None))]
    if lacking:
        raise ConfigError(f"router: {path} is no router, it lacks {' and '.join(lacking)}; see flowguard/README.md")
    return router
