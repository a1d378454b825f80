"""Settings: the keyword arguments that every environment takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from envs.live import Live
from envs.reward import Weights
from envs.running import Remote, address
from streamserve import config as configuration
from streamserve.config import Config
from streamserve.errors import ConfigError
from streamserve.lanes.sim import calibration as calibrations
from streamserve.lanes.sim.calibration import Calibration
from streamserve.simulation.options import SimOptions
from streamserve.types import Slo
from streamserve.workload import arrivals

Between = tuple[float, float]
"""Least and greatest of what is drawn uniformly for each episode."""
S = TypeVar("S", bound=msgspec.Struct)


class Ranges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Domain randomisation: what each episode draws anew; null = as the other settings say."""

    load: Between | None = None
    lanes: tuple[int, int] | None = None
    """How many lanes; `pairs` of the configuration must be `all` or `own`."""
    speed: Between | None = None
    """Of every lane by itself, times as calibrated; drawn evenly in its logarithm."""
    staleness_s: Between | None = None
    acceptance_scale: Between | None = None
    drift: Between | None = None
    """Scale of acceptance from some instant of the episode on."""
    failures: float = 0.0
    """Failures of lanes to expect in an episode."""
    length_scale: Between | None = None
    output_share: Between | None = None
    """Of its `max_tokens`, how much each request generates."""
    arrivals: tuple[str, ...] = ()
    """Processes, one of which each episode has."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an episode is made of. Names that stand for files are loaded once, by `of`."""

    config: Config
    calibration: Calibration | None = None
    """Simulated lanes: None = the one that ships."""
    arrivals: str = "poisson"
    """As `streamserve.workload.arrivals.parse`."""
    workload: str | Path = "128:100"
    """Means of prompt and output tokens, or a folder of JSONL prompt sets."""
    load: float = 0.8
    """Share of the lanes' capacity (simulated lanes; see `capacity`)."""
    rate: float | None = None
    """Requests per second, instead of a load."""
    rate_scale: float = 1.0
    length_scale: float = 1.0
    requests: int = 256
    """Requests of an episode that drains, decisions of one that does not."""
    horizon_s: float | None = None
    """The episode is cut at the first decision this long after its start."""
    drain: bool = False
    """Whether the episode has a fixed set of requests and terminates when all have ended."""
    slo: Slo = Slo()
    """Of requests, where the configuration names none."""
    options: SimOptions = SimOptions()
    """Of the simulated lanes; its seed is replaced by each episode's own."""
    randomise: Ranges = field(default_factory=Ranges)
    weights: Weights = field(default_factory=Weights)
    vocabulary: int | None = None
    """Made-up token ids are below this; a real model's lanes need its size."""
    drain_limit_s: float = 900.0
    """What has not ended so long after the last arrival cuts the episode off."""
    tick_s: float = 1.0
    """`Spec`: time between two control ticks."""
    live: Live | None = None
    url: str | None = None
    """A server that runs, of `streamserve serve --set policy.remote=true`."""
    admin_key: str | None = None
    """None = that of `$STREAMSERVE_ADMIN_KEY`, if there is one."""
    api_key: str | None = None
    """For requests that are sent to it; None = that of `$STREAMSERVE_API_KEY`, if there is one."""
    budget_s: float = 0.2
    """How long the server has a request wait for the agent before it decides by itself."""
    drive: bool = False
    """Whether requests are sent to the server, as `arrivals` and `workload` say; else it serves its own."""
    idle_limit_s: float = 60.0
    """With `drive`: how long a reset waits until the server is idle."""
    decision_limit_s: float = 120.0
    """How long a step waits for the server's next decision before it cuts the episode off."""

    @property
    def remote(self) -> Remote | None:
        """The server, if there is one."""
        if self.url is None:
            return None
        return Remote(self.url, self.admin_key, self.api_key, self.budget_s, self.idle_limit_s, self.decision_limit_s)

    @classmethod
    def of(cls, **given: Any) -> "Settings":
        """Settings from keyword arguments, names and mappings allowed. Raises `ConfigError`."""
        return cls(**_loaded({"config": "cpu-pair", **given})).checked()

    def but(self, changes: Mapping[str, Any]) -> "Settings":
        """These settings with some of them changed. Raises `ConfigError`."""
        return replace(self, **_loaded(changes)).checked() if changes else self

    def checked(self) -> "Settings":
        """The same settings. Raises `ConfigError` if they cannot work."""
        positive: tuple[str, ...] = (
            "load",
            "rate",
            "rate_scale",
            "length_scale",
            "requests",
            "horizon_s",
            "drain_limit_s",
            "tick_s",
        )
        positive += ("budget_s", "idle_limit_s", "decision_limit_s")
        for name in positive:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise ConfigError(f"{name} must be a number, got {value!r}")
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be above 0 and finite, got {value}")
        if self.requests != int(self.requests):
            raise ConfigError(f"requests must be a whole number, got {self.requests}")
        if self.vocabulary is not None and self.vocabulary < 1:
            raise ConfigError(f"vocabulary must be at least 1, got {self.vocabulary}")
        for name, value in msgspec.structs.asdict(self.weights).items():
            if not 0 <= value < float("inf") or (name == "scale" and not value):
                raise ConfigError(f"weights.{name} must be {'above 0' if name == 'scale' else 'at least 0'}: {value}")
        if self.live is not None and self.rate is None:
            raise ConfigError("a live environment needs rate (requests per second): real lanes have no known capacity")
        self._check_remote()
        for spec in (self.arrivals, *self.randomise.arrivals):
            arrivals.parse(spec)
        self._check_ranges()
        return self

    def _check_remote(self) -> None:
        if self.url is None:
            if self.drive:
                raise ConfigError("drive needs url: it sends requests to a server that runs")
            return
        address(self.url, {})
        if self.live is not None:
            raise ConfigError("give either url or live: the lanes of a server that runs, or lanes of your own")
        if not self.drive and self.drain:
            raise ConfigError("drain needs drive: the server's own traffic does not end")
        if self.drive and self.rate is None:
            raise ConfigError("drive needs rate (requests per second): a server's capacity is not known here")
        if self.drive and self.vocabulary is None and ":" in str(self.workload):
            raise ConfigError(
                "drive needs vocabulary, how many tokens the model has, to make up prompts; or a folder as workload"
            )

    def _check_ranges(self) -> None:
        ranges = self.randomise
        for name in ("load", "lanes", "speed", "staleness_s", "acceptance_scale", "drift", "length_scale"):
            between = getattr(ranges, name)
            least = 1 if name == "lanes" else 0
            if between is not None and not least <= between[0] <= between[1] < float("inf"):
                raise ConfigError(f"randomise.{name}: write [least, greatest], from {least} on; got {list(between)}")
            if between is not None and not between[0] and name in ("load", "speed", "length_scale"):
                raise ConfigError(f"randomise.{name} must be above 0, got {list(between)}")
        if ranges.output_share is not None and not 0 < ranges.output_share[0] <= ranges.output_share[1] <= 1:
            raise ConfigError(f"randomise.output_share: write [least, greatest] within 0..1; got {ranges.output_share}")
        if not 0 <= ranges.failures < float("inf"):
            raise ConfigError(f"randomise.failures must be at least 0, got {ranges.failures}")
        if ranges.lanes is not None and not isinstance(self.config.pairs, str):
            raise ConfigError("randomise.lanes needs a configuration with pairs: all or own, not a list of pairs")
        simulated_only = [name for name in ("lanes", "speed", "staleness_s", "drift") if getattr(ranges, name)]
        if (self.live or self.url) and (simulated_only or ranges.failures or ranges.acceptance_scale or ranges.load):
            raise ConfigError("a live environment can randomise arrivals, length_scale and output_share only")


def _loaded(given: Mapping[str, Any]) -> dict[str, Any]:
    known = {each.name for each in fields(Settings)}
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"environments have no setting {name!r}; {advice}")
    values = dict(given)
    if isinstance(values.get("config"), str):
        values["config"] = configuration.load(values["config"])
    if isinstance(values.get("calibration"), str):
        values["calibration"] = calibrations.load(values["calibration"])
    for name, struct in (("randomise", Ranges), ("weights", Weights)):
        if isinstance(values.get(name), Mapping):
            values[name] = _struct(values[name], struct, name)
    for name, made in (("options", SimOptions), ("slo", Slo)):
        if isinstance(values.get(name), Mapping):
            values[name] = _dataclass(values[name], made, name)
    return values


def _struct(tree: Mapping[str, Any], struct: type[S], name: str) -> S:
    try:
        return msgspec.convert(dict(tree), struct)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}; known: {', '.join(struct.__struct_fields__)}") from error


def _dataclass(tree: Mapping[str, Any], made: Any, name: str) -> Any:
    known: Sequence[str] = [each.name for each in fields(made)]
    if unknown := sorted(set(tree) - set(known)):
        raise ConfigError(f"{name}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return made(**tree)
