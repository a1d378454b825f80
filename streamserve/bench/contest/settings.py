"""What a contest is asked to measure, checked before anything is started."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from streamserve.errors import ConfigError
from streamserve.workload import arrivals

MIX = "mix"
BURST = "burst"
ALONE = "alone"
"""Arrivals: one request at a time, the next when the one before it has ended."""
LOADLESS = (BURST, ALONE)
"""Arrivals that no rate describes: each is one point, whatever the loads."""
PROCESSES = ("poisson", "gamma", "trace")
LAX = ("repeats", "plots")
"""What may differ when a contest goes on in a folder: more repeats change nothing about those that lie there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, under which load, and how it is judged."""

    systems: tuple[str, ...]
    """As `systems.resolve` takes them; the first is the one whose capacity loads are shares of."""
    workloads: tuple[str, ...] = (MIX,)
    arrivals: tuple[str, ...] = ("poisson",)
    loads: tuple[float, ...] = (0.5, 0.8)
    rate: float | None = None
    """Requests per second, instead of loads."""
    capacity: Mapping[str, float] = field(default_factory=dict)
    """Workload -> requests per second, instead of measuring it; `*` = every other workload."""
    requests: int = 40
    """Of each run."""
    repeats: int = 5
    length_scale: float = 1.0
    """Times the prompts' own output lengths."""
    slo_ttft_s: float = 3.0
    slo_tpot_s: float = 0.1
    seed: int = 0
    apart: bool = False
    """Every run starts and stops its system."""
    keep: bool = False
    """Systems stay up from repeat to repeat."""
    aa: bool = False
    """The first system a second time, as a server of its own: what differs between the two is noise."""
    timeout_s: float = 900.0
    """Of one run, after its last arrival; what has not ended by then is cut off and counted as failed."""
    plots: bool = True


@dataclass(frozen=True, slots=True)
class Point:
    """One load that every system is put under."""

    workload: str
    arrivals: str
    load: float

    def __str__(self) -> str:
        if self.arrivals in LOADLESS:
            return f"{self.workload}, {'all at once' if self.arrivals == BURST else 'one at a time'}"
        return f"{self.workload}, {self.arrivals}, load {self.load:g}"


def points(settings: Settings) -> tuple[Point, ...]:
    """Every workload under every arrivals at every load, in this order; with a rate there is one load, called 1."""
    loads = (1.0,) if settings.rate is not None else settings.loads
    return tuple(
        Point(workload, process, load)
        for workload in settings.workloads
        for process in settings.arrivals
        for load in ((1.0,) if process in LOADLESS else loads)
    )


def check(settings: Settings) -> None:
    """Find mistakes. Raises `ConfigError`."""
    if not settings.systems:
        raise ConfigError("--systems names none: e.g. --systems streamserve,vllm")
    if twice := {each for each in settings.systems if settings.systems.count(each) > 1}:
        raise ConfigError(f"--systems names {', '.join(sorted(twice))} twice: --aa runs the first one a second time")
    _check_twice(settings)
    for process in settings.arrivals:
        _check_process(process, settings.requests)
    if unknown := sorted(settings.capacity.keys() - {*settings.workloads, "*"}):
        raise ConfigError(
            f"--capacity names {', '.join(unknown)}, of which no run is: write {'=X,'.join(settings.workloads)}=X"
        )
    for name, each in (("--loads", settings.loads), ("--capacity", tuple(settings.capacity.values()))):
        if not all(0 < value < math.inf for value in each):
            raise ConfigError(
                f"{name}: every number must be above 0 and finite, got {', '.join(f'{v:g}' for v in each)}"
            )
    positive = {
        "--rate": 1.0 if settings.rate is None else settings.rate,
        "--length-scale": settings.length_scale,
        "--slo-ttft": settings.slo_ttft_s,
        "--slo-tpot": settings.slo_tpot_s,
        "--timeout": settings.timeout_s,
        "--requests": settings.requests,
        "--repeats": settings.repeats,
    }
    for name, number in positive.items():
        if not 0 < number < math.inf:
            raise ConfigError(f"{name} must be above 0 and finite, got {number:g}")
    if settings.apart and settings.keep:
        raise ConfigError("--apart starts a system for every run and --keep never stops one: give one of them")
    if settings.plots:
        _check_plots()


def capacities(text: str | None) -> dict[str, float]:
    """`0.8`, or by workload `alpaca=0.9,mix=0.6`. Raises `ConfigError`."""
    found: dict[str, float] = {}
    for part in (text or "").split(","):
        if not part:
            continue
        name, equals, number = part.rpartition("=")
        try:
            found[name if equals else "*"] = float(number)
        except ValueError as error:
            raise ConfigError(f"--capacity {text!r}: write requests per second, or WORKLOAD=X,WORKLOAD=X") from error
    return found


def given_capacities(settings: Settings) -> dict[str, float]:
    """Workload -> requests per second, for those that need no measurement."""
    given = settings.capacity
    named = {each: given.get(each, given.get("*")) for each in settings.workloads}
    return {each: rate for each, rate in named.items() if rate is not None}


def _check_twice(settings: Settings) -> None:
    for name in ("workloads", "arrivals", "loads"):
        given = getattr(settings, name)
        if len(set(given)) < len(given):
            raise ConfigError(f"--{name} says the same twice: --repeats is how often every run is measured")


def _check_process(text: str, requests: int) -> None:
    if text in LOADLESS:
        return
    kind = text.partition(":")[0]
    if kind not in PROCESSES:
        raise ConfigError(f"--arrivals {text!r}: write poisson, gamma:CV, {BURST}, {ALONE} or trace:FILE")
    process = arrivals.parse(text)
    if process.path is not None:
        left = sum(at_s >= process.start_s for at_s in arrivals.read_trace(process.path))
        if left < requests:
            raise ConfigError(
                f"--arrivals {text}: it has {left} arrivals, a run sends {requests}: give --requests {left}"
            )


def _check_plots() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError("plots need matplotlib: `pip install matplotlib`, or give --no-plots") from error
