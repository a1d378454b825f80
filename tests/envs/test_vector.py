"""Several environments in one process."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.envs.scenes import CALIBRATION, plain, simulated


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_a_vector_of_environments_is_those_environments(mode: str) -> None:
    given: dict[str, Any] = {"config": plain(), "calibration": CALIBRATION, "requests": 6, "workload": "64:16"}
    vector = gymnasium.make_vec("streamserve/Route-v0", num_envs=3, vectorization_mode=mode, **given)
    observation, _ = vector.reset(seed=7)
    rewards = [vector.step(np.zeros(3, np.int64))[1] for _ in range(5)]
    for place in range(3):
        alone = simulated("Route", **given)
        first, _ = alone.reset(seed=7 + place)
        assert (observation["pairs"][place] == first["pairs"]).all()
        assert [float(each[place]) for each in rewards] == [alone.step(0)[1] for _ in range(5)]
        alone.close()
    vector.close()
