"""Plants: what they refuse, and that nothing of them outlives them."""

import asyncio

import msgspec
import pytest

from streamserve import virtual
from streamserve.config import Config, LaneConfig
from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import Calibration
from streamserve.simulation.options import SimOptions
from streamserve.simulation.plant import Plant, check, simulated
from streamserve.types import LaneId, LaneState
from tests import calibrations

A = LaneId("a")
CALIBRATION = calibrations.example()
CONFIG = Config(lanes=[LaneConfig(A), LaneConfig(LaneId("b"))], model="example")


def of(**origin: object) -> Calibration:
    return msgspec.structs.replace(CALIBRATION, origin=msgspec.structs.replace(CALIBRATION.origin, **origin))


def with_cores(cores: int | list[int]) -> Config:
    return msgspec.structs.replace(CONFIG, lanes=[LaneConfig(A, cores=cores)])


@pytest.mark.parametrize(
    ("config", "calibration", "message"),
    [
        (CONFIG, of(model="another"), "with model 'another', the configuration has 'example'"),
        (CONFIG, of(vllm="0.31.0"), "with vLLM 0.31.0, lanes now run 0.32.0"),
        (CONFIG, of(cores_per_lane=2), "2 core\\(s\\) a lane, a has 1"),
        (with_cores(0), CALIBRATION, "1 core\\(s\\) a lane, a has all"),
        (with_cores([0, 1]), CALIBRATION, "1 core\\(s\\) a lane, a has 2"),
    ],
)
def test_a_calibration_of_something_else_is_refused(config: Config, calibration: Calibration, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(config, calibration, SimOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SimOptions(speeds={LaneId("c"): 1.0}), "no lane c; lanes are a, b"),
        (SimOptions(failures=((1.0, LaneId("c")),)), "no lane c"),
        (SimOptions(speeds={A: 0.0}), "speed of a must be above 0"),
        (SimOptions(speeds={A: float("inf")}), "speed of a must be above 0 and finite"),
        (SimOptions(staleness_s=-1.0), "staleness_s must be at least 0"),
        (SimOptions(restart_s=float("nan")), "restart_s must be at least 0"),
        (SimOptions(failures=((-1.0, A),)), "instant of the failure of a must be at least 0"),
        (SimOptions(acceptance_drift=((1.0, -0.5),)), "acceptance scale from 1.0 s on must be at least 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: SimOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(CONFIG, CALIBRATION, options)


def test_a_build_of_the_same_version_and_listed_cores_fit() -> None:
    check(with_cores([3]), of(vllm="0.32.0+cpu"), SimOptions())


def test_a_plant_comes_up_and_leaves_nothing_behind() -> None:
    async def scenario() -> Plant:
        options = SimOptions(failures=((100.0, A),), acceptance_drift=((100.0, 0.5),))
        plant = simulated(CONFIG, CALIBRATION, options, lambda result: None)
        await plant.start()
        assert {lane.signals().state for lane in plant.lanes.values()} == {LaneState.READY}
        await plant.aclose()
        await plant.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(200.0)
        return plant

    plant = virtual.run(scenario())
    assert list(plant.lanes) == ["a", "b"]


def test_a_failure_is_an_instant_from_the_start_on_and_the_supervisor_repairs_it() -> None:
    async def scenario() -> None:
        options = SimOptions(failures=((10.0, A),), restart_s=3.0)
        plant = simulated(CONFIG, CALIBRATION, options, lambda result: None)
        await plant.start()

        def state() -> LaneState:
            return plant.serving.scheduler.signals().lanes[A].state

        await asyncio.sleep(9.9)
        assert state() is LaneState.READY
        await asyncio.sleep(0.2)
        assert state() is not LaneState.READY
        await asyncio.sleep(0.5 + 3.0)
        assert state() is LaneState.READY
        await plant.aclose()

    virtual.run(scenario())
