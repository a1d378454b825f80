"""Scenario: everything that is drawn for one episode."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from envs.capacity import capacity
from envs.settings import Between, Settings
from envs.traffic import Source, Traffic
from streamserve.config import Config, LaneConfig
from streamserve.lanes.sim.calibration import Calibration
from streamserve.simulation.options import SimOptions
from streamserve.types import LaneId, Slo


@dataclass(frozen=True, slots=True)
class Scenario:
    """One episode; the same scenario gives the same episode on simulated lanes."""

    config: Config
    options: SimOptions
    traffic: Traffic


def draw(settings: Settings, calibration: Calibration | None, source: Source, rng: np.random.Generator) -> Scenario:
    """An episode within the settings' ranges. calibration: None = on live lanes."""
    ranges = settings.randomise
    sim_seed, traffic_seed = (int(each) for each in rng.integers(2**31, size=2))
    length_scale = settings.length_scale * _one(ranges.length_scale, 1.0, rng)
    process = settings.arrivals
    if ranges.arrivals:
        process = ranges.arrivals[int(rng.integers(len(ranges.arrivals)))]
    config = _with_lanes(settings.config, ranges.lanes, rng)
    speeds = dict(settings.options.speeds)
    if ranges.speed is not None:
        low, high = ranges.speed
        speeds = {
            lane.id: math.exp(float(rng.uniform(math.log(low), math.log(high)))) * speeds.get(lane.id, 1.0)
            for lane in config.lanes
        }
    share = ranges.output_share or (1.0, 1.0)
    load = _one(ranges.load, settings.load, rng)
    rate = settings.rate
    if rate is None and settings.url is not None:
        # Requests come from elsewhere.
        rate = 1.0
    elif rate is None:
        assert calibration is not None, "Settings.checked wants a rate of live environments"
        means = source.means(length_scale)
        means = replace(means, output_tokens=means.output_tokens * sum(share) / 2)
        rate = load * capacity(config, calibration, means, speeds)
    rate *= settings.rate_scale
    about_s = settings.horizon_s or settings.requests / rate
    options = replace(_options(settings, config, about_s, rng), seed=sim_seed, speeds=speeds)
    slo = _slo(settings)
    return Scenario(config, options, Traffic(source, process, rate, traffic_seed, length_scale, share, slo))


def _options(settings: Settings, config: Config, about_s: float, rng: np.random.Generator) -> SimOptions:
    ranges, options = settings.randomise, settings.options
    drift = options.acceptance_drift
    if ranges.drift is not None:
        drift = (*drift, (float(rng.uniform(0, about_s)), _one(ranges.drift, 1.0, rng)))
    failures = options.failures
    if ranges.failures:
        ids: Sequence[LaneId] = [lane.id for lane in config.lanes]
        drawn = [float(rng.uniform(0, about_s)) for _ in range(int(rng.poisson(ranges.failures)))]
        failures = (*failures, *((at_s, ids[int(rng.integers(len(ids)))]) for at_s in sorted(drawn)))
    return replace(
        options,
        staleness_s=_one(ranges.staleness_s, options.staleness_s, rng),
        acceptance_scale=_one(ranges.acceptance_scale, options.acceptance_scale, rng),
        acceptance_drift=drift,
        failures=failures,
    )


def _one(between: Between | None, otherwise: float, rng: np.random.Generator) -> float:
    return otherwise if between is None else float(rng.uniform(*between))


def _with_lanes(config: Config, between: tuple[int, int] | None, rng: np.random.Generator) -> Config:
    if between is None:
        return config
    first = config.lanes[0]
    count = int(rng.integers(between[0], between[1] + 1))
    lanes: list[LaneConfig] = [msgspec.structs.replace(first, id=LaneId(f"lane-{place}")) for place in range(count)]
    return msgspec.structs.replace(config, lanes=lanes)


def _slo(settings: Settings) -> Slo:
    default = settings.config.slo
    return settings.slo.over(Slo(default.ttft_s, default.tpot_s))
