"""The plant: everything that `streamserve serve` puts behind its HTTP front, over simulated lanes."""

import asyncio
from collections.abc import Callable, Mapping

import numpy as np

from streamserve.build import Serving, assemble
from streamserve.config import Config
from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import Calibration
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.lane import SimLane
from streamserve.lanes.sim.options import LaneOptions
from streamserve.lanes.vllm.version import SUPPORTED
from streamserve.protocols import Router
from streamserve.simulation.options import SimOptions
from streamserve.types import LaneId, Result


class Plant:
    """Simulated lanes of one host, what serves on them, and what happens to them.

    `start` and `aclose` instead of those of `serving`: they also begin and end the failures and drifts of the options.
    """

    def __init__(self, serving: Serving, lanes: Mapping[LaneId, SimLane], host: Host, options: SimOptions) -> None:
        self.serving = serving
        self.lanes = lanes
        self.host = host
        self._options = options
        self._timers: list[asyncio.TimerHandle] = []

    async def start(self) -> None:
        """Bring every lane up, then set the clock of the options' instants to 0."""
        await self.serving.start(lambda _lane, _stage: None)
        later = asyncio.get_running_loop().call_later
        for at_s, lane in self._options.failures:
            self._timers.append(later(at_s, self.lanes[lane].fail, "failed as the simulation's options say"))
        for at_s, scale in self._options.acceptance_drift:
            self._timers.append(later(at_s, self._accept, scale))

    async def aclose(self) -> None:
        """Refuse new requests, end the running ones, stop every lane; idempotent."""
        for timer in self._timers:
            timer.cancel()
        await self.serving.aclose()

    def _accept(self, scale: float) -> None:
        for lane in self.lanes.values():
            lane.accept(scale)


def simulated(
    config: Config,
    calibration: Calibration,
    options: SimOptions,
    on_result: Callable[[Result], None],
    router: Router | None = None,
) -> Plant:
    """A plant of the configuration's lanes, not started yet; needs a running loop, a virtual one as a rule.

    router: instead of the configured one. Raises `ConfigError`.
    """
    check(config, calibration, options)
    seeds = np.random.SeedSequence(options.seed).spawn(len(config.lanes) + 1)
    host = Host(calibration, np.random.default_rng(seeds[0]), options.noise)
    lanes = {}
    for lane, seed in zip(config.lanes, seeds[1:], strict=True):
        settings = LaneOptions(
            speed=options.speeds.get(lane.id, 1.0),
            staleness_s=options.staleness_s,
            start_s=options.restart_s,
            acceptance_scale=options.acceptance_scale,
        )
        rng = np.random.default_rng(seed)
        lanes[lane.id] = SimLane(lane.id, calibration, host, config.engine, config.speculation, rng, settings)
    return Plant(assemble(config, list(lanes.values()), on_result, router), lanes, host, options)


def check(config: Config, calibration: Calibration, options: SimOptions) -> None:
    """Whether the calibration describes these lanes and the options name them. Raises `ConfigError`."""
    origin = calibration.origin
    if origin.model != config.model:
        raise ConfigError(
            f"the calibration was measured with model {origin.model!r}, the configuration has {config.model!r}: "
            "calibrate that model with streamserve calibrate, or name another calibration"
        )
    if origin.vllm.partition("+")[0] != SUPPORTED:
        raise ConfigError(
            f"the calibration was measured with vLLM {origin.vllm}, lanes now run {SUPPORTED}: "
            "calibrate anew with streamserve calibrate"
        )
    for lane in config.lanes:
        cores = len(lane.cores) if isinstance(lane.cores, list) else lane.cores
        if config.device == "cpu" and cores != origin.cores_per_lane:
            raise ConfigError(
                f"the calibration was measured with {origin.cores_per_lane} core(s) a lane, {lane.id} has "
                f"{cores or 'all'}: give it as many, or calibrate such a lane with streamserve calibrate"
            )
    ids = {lane.id for lane in config.lanes}
    named = [*options.speeds, *(lane for _, lane in options.failures)]
    if unknown := sorted(set(named) - ids):
        known = ", ".join(lane.id for lane in config.lanes[:8])
        raise ConfigError(f"simulation: no lane {', '.join(unknown)}; lanes are {known}")
    _check_numbers(options)


def _check_numbers(options: SimOptions) -> None:
    above_0 = {f"speed of {lane}": speed for lane, speed in options.speeds.items()}
    at_least_0 = {
        "staleness_s": options.staleness_s,
        "restart_s": options.restart_s,
        "acceptance_scale": options.acceptance_scale,
        **{f"instant of the failure of {lane}": at_s for at_s, lane in options.failures},
        **{f"instant of the drift to {scale}": at_s for at_s, scale in options.acceptance_drift},
        **{f"acceptance scale from {at_s} s on": scale for at_s, scale in options.acceptance_drift},
    }
    for what, value in {**above_0, **at_least_0}.items():
        if not 0 <= value < float("inf") or (what in above_0 and not value):
            least = "above 0" if what in above_0 else "at least 0"
            raise ConfigError(f"simulation: {what} must be {least} and finite, got {value}")
