"""The luck of single steps: of mean 1, and the lane's and the instant's alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.lanes.sim.jitter import BLOCK, Jitter
from tests.calibrations import example
from tests.lanes.sim.shop import Shop, calibrated, request, run

BUCKET_S = 0.05


def jitter(seed: int = 0, sigma: float = 0.3) -> Jitter:
    return Jitter(sigma, BUCKET_S, np.random.default_rng(seed))


@pytest.mark.parametrize("steps", [1, 4])
def test_it_makes_steps_neither_longer_nor_shorter_on_average(steps: int) -> None:
    it = jitter()
    factors = np.array([it.factor((n + 0.5) * BUCKET_S, steps) for n in range(20_000)])
    assert factors.mean() == pytest.approx(1.0, abs=0.008)
    assert np.log(factors).std() == pytest.approx(0.3 / steps**0.5, rel=0.03)


@given(
    asked=st.lists(st.floats(0.0, 3 * BLOCK * BUCKET_S), min_size=1, max_size=30),
    steps=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_it_is_the_instants_whatever_was_asked_before(asked: list[float], steps: int, seed: int) -> None:
    it = jitter(seed)
    assert [it.factor(at_s, steps) for at_s in asked] == [jitter(seed).factor(at_s, steps) for at_s in asked]


def test_lanes_have_their_own() -> None:
    assert jitter(0).factor(1.0, 1) != jitter(1).factor(1.0, 1)


def test_a_lane_has_the_same_luck_whatever_it_did_before() -> None:
    """Two runs that a choice has set apart are told apart by it alone."""
    # Quiet epochs: the jitter is all the noise there is.
    noise = type(example().noise)(epoch_s=1.0, log_residuals=(), step_sigma=0.3)

    def ended_s(outputs_before: tuple[int, ...], noisy: bool = True) -> float:
        async def body(it: Shop) -> float:
            for n, output in enumerate(outputs_before):
                await it.decode(request(f"before {n}", 100, output))
            return (await it.decode(request("after", 100, 20), at_s=20.0))[-1].at_s

        return float(run(body, calibration=calibrated(noise=noise, coupling=(1.0,)), noise=noisy))

    assert ended_s(()) == ended_s((3,)) == ended_s((30, 7, 12))
    assert ended_s(()) != pytest.approx(ended_s((), noisy=False), abs=1e-3)
