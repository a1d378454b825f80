"""Settings: bad input is refused with what to do; good input is kept."""

from typing import Any

import pytest

from envs.live import Live
from envs.settings import Ranges, Settings
from streamserve.errors import ConfigError
from streamserve.simulation.options import SimOptions
from streamserve.types import LaneId, Slo
from tests.envs.scenes import A, B, config, request, simulated, slow


def test_names_and_mappings_become_values() -> None:
    settings = Settings.of(
        config="unified",
        options={"staleness_s": 0.1},
        slo={"ttft_s": 1.0},
        weights={"slo": 2.0},
        randomise={"load": [0.5, 0.9], "failures": 1.0},
    )
    assert settings.config.lanes[0].id == "lane-0"
    assert settings.options == SimOptions(staleness_s=0.1)
    assert settings.slo == Slo(1.0)
    assert settings.weights.slo == 2.0
    assert settings.randomise == Ranges(load=(0.5, 0.9), failures=1.0)
    assert settings.but({}) is settings
    assert settings.but({"load": 0.3}).load == 0.3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"laod": 0.5}, "no setting 'laod'; did you mean load"),
        ({"load": 0.0}, "load must be above 0"),
        ({"load": float("nan")}, "load must be above 0"),
        ({"rate": -1.0}, "rate must be above 0"),
        ({"requests": 0}, "requests must be above 0"),
        ({"requests": 12.5}, "requests must be a whole number"),
        ({"load": "8e-1"}, "load must be a number, got '8e-1'"),
        ({"tick_s": True}, "tick_s must be a number"),
        ({"vocabulary": 0}, "vocabulary must be at least 1"),
        ({"weights": {"failure": -1.0}}, "weights.failure must be at least 0"),
        ({"weights": {"scale": 0.0}}, "weights.scale must be above 0"),
        ({"weights": {"balance": 1.0}}, "weights: .*balance.*known: ttft"),
        ({"options": {"speed": 1.0}}, "options: unknown speed; known: seed"),
        ({"arrivals": "poison"}, "no process 'poison'"),
        ({"randomise": {"load": [0.9, 0.5]}}, "randomise.load: write"),
        ({"randomise": {"load": [0.0, 0.5]}}, "randomise.load must be above 0"),
        ({"randomise": {"lanes": [0, 2]}}, "randomise.lanes: write"),
        ({"randomise": {"output_share": [0.5, 2.0]}}, "randomise.output_share"),
        ({"randomise": {"failures": -1.0}}, "randomise.failures"),
        ({"randomise": {"arrivals": ["x"]}}, "no process 'x'"),
        ({"randomise": {"lanes": [1, 2]}, "config": config([(A, B)])}, "not a list of pairs"),
        ({"config": "nowhere"}, "no configuration 'nowhere'"),
        ({"calibration": "nowhere"}, "no calibration 'nowhere'"),
        ({"live": Live(slow(), request)}, "a live environment needs rate"),
        ({"live": Live(slow(), request), "rate": 1.0, "randomise": {"speed": [1, 2]}}, "can randomise arrivals"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.of(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"render_mode": "human"}, "render_mode must be"),
        ({"most_pairs": 0}, "most_pairs must be at least 1"),
        ({"workload": "nowhere"}, "name a folder"),
        ({"workload": "0:4"}, "at least 1"),
    ],
)
def test_environments_refuse_it_too(given: dict[str, Any], message: str) -> None:
    from envs.routing import RoutingEnv

    with pytest.raises(ConfigError, match=message):
        RoutingEnv(True, **{"config": config(), **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"config": config(model="another")}, "measured with model 'example'"),
        ({"options": SimOptions(failures=((1.0, LaneId("c")),))}, "no lane c"),
    ],
)
def test_a_plant_that_cannot_be_fails_the_reset(given: dict[str, Any], message: str) -> None:
    environment = simulated("Route", **given)
    with pytest.raises(ConfigError, match=message):
        environment.reset(seed=0)
    environment.close()
