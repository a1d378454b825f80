"""Scenarios: what policies are compared in; none of their episodes is one that training draws."""

from collections.abc import Mapping, Sequence
from typing import Any

from streamserve.config import Config
from streamserve.errors import ConfigError

FIRST_SEED = 2_000_000
"""Of comparisons; training and its own comparisons use lower ones."""
OUTPUT_SHARE = (0.2, 1.0)
"""Of its `max_tokens`, how much a request generates: as in serving, nobody knows it before."""
Settings = Mapping[str, Any]


def scenarios(config: Config, requests: int) -> dict[str, Settings]:
    """Name -> settings of the environment, for the lanes of a configuration.

    requests: of each episode. Other numbers of lanes are left out where the configuration names its pairs.
    """
    last = config.lanes[-1].id
    slow: Settings = {"options": {"speeds": {last: 0.5}}}
    drift: Settings = {"randomise": {"drift": (0.4, 0.4)}}
    failure: Settings = {"randomise": {"failures": 1.0}}
    each: dict[str, Settings] = {
        "light": {"load": 0.4},
        "busy": {"load": 0.8},
        "heavy": {"load": 0.95},
        "overload": {"load": 1.2},
        "bursts": {"load": 0.7, "arrivals": "gamma:5"},
        "waves": {"load": 0.7, "arrivals": "mmpp:1,6:15"},
        "tides": {"load": 0.7, "arrivals": "diurnal:0.8:60"},
        "slow lane": {"load": 0.7, **slow},
        "slow lane in bursts": {"load": 0.7, "arrivals": "gamma:5", **slow},
        "drift": {"load": 0.8, **drift},
        "stale signals": {"load": 0.8, "options": {"staleness_s": 0.1}},
        "failures": {"load": 0.7, **failure},
        "long prompts": {"load": 0.8, "workload": "512:64"},
        "long answers": {"load": 0.8, "workload": "64:256"},
        "early ends": {"load": 0.8, "randomise": {"output_share": (0.05, 1.0)}},
    }
    if isinstance(config.pairs, str):
        for lanes in (3, 5, 6):
            each[f"{lanes} lanes"] = {"load": 0.8, "randomise": {"lanes": (lanes, lanes)}}
        each["5 unlike lanes"] = {"load": 0.8, "randomise": {"lanes": (5, 5), "speed": (0.4, 1.6)}}
    return {name: _whole(settings, requests) for name, settings in each.items()}


def chosen(known: Mapping[str, Settings], names: Sequence[str]) -> dict[str, Settings]:
    """Those of the names, all without any. Raises `ConfigError`."""
    if missing := [name for name in names if name not in known]:
        raise ConfigError(f"no scenario {', '.join(missing)}; known: {', '.join(known)}")
    return {name: settings for name, settings in known.items() if not names or name in names}


def of_texts(folder: str, arrivals: Sequence[str], requests: int) -> dict[str, Settings]:
    """Scenarios of prompt sets, under each of the arrival processes."""
    shared = {"workload": folder, "load": 0.8}
    return {f"prompts, {process}": _whole({**shared, "arrivals": process}, requests) for process in arrivals}


def _whole(settings: Settings, requests: int) -> Settings:
    randomise = {"output_share": OUTPUT_SHARE, **settings.get("randomise", {})}
    return {"requests": requests, "drain": True, **settings, "randomise": randomise}
