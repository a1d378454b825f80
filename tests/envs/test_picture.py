"""Pictures of an episode."""

import numpy as np
import pytest

from envs.picture import BACKGROUND, DECODE, LOST, QUEUE, Picture
from streamserve.signals import DepthControl, DepthMode, LaneLoad
from streamserve.types import LaneState
from tests.envs.scenes import simulated
from tests.flowguard.snapshots import A, B, lane, signals


def colours(image: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}


def test_work_and_loss_are_drawn_where_they_are() -> None:
    picture = Picture()
    assert picture.text() == "nothing yet"
    fixed = DepthControl(DepthMode.FIXED, depth=3)
    lanes = (lane(A, depth=fixed), lane(B, state=LaneState.LOST))
    picture.see(signals(*lanes, load={A: LaneLoad(1, 10, 2), B: LaneLoad()}))
    text = picture.text()
    assert "|#==" in text
    assert "fixed 3" in text
    assert "not ready" in text
    image = picture.pixels()
    assert image.dtype == np.uint8
    assert image.shape == (162, 480, 3)
    assert {DECODE, BACKGROUND} <= colours(image[54:102])
    assert LOST in colours(image[108:156])
    assert LOST not in colours(image[:102])
    assert QUEUE in colours(image)


def test_environments_render_as_asked() -> None:
    for mode, kind in (("ansi", str), ("rgb_array", np.ndarray)):
        environment = simulated("Spec", render_mode=mode)
        environment.reset(seed=1)
        assert isinstance(environment.render(), kind)
        environment.close()


def test_without_a_mode_nothing_is_rendered() -> None:
    environment = simulated("Route").unwrapped
    environment.reset(seed=1)
    with pytest.warns(UserWarning, match="needs a render_mode"):
        assert environment.render() is None
    environment.close()
