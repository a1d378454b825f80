"""The host's noise and coupling, and the stretches that run through it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.lanes.sim.cost import EqualSteps, StepTime
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.stretch import Stretch
from tests.calibrations import example
from tests.lanes.sim.shop import calibrated


class Idle:
    def __init__(self) -> None:
        self.retimed = 0

    def retime(self) -> None:
        self.retimed += 1


@given(start_s=st.floats(0, 50), work_s=st.floats(1e-3, 60), seed=st.integers(0, 9))
def test_work_takes_as_long_as_the_epochs_say_and_back(start_s: float, work_s: float, seed: int) -> None:
    host = Host(example(), np.random.default_rng(seed))
    host.end_s(0.0, 1.0)
    end_s = host.end_s(start_s, work_s)
    assert host.work_s(start_s, end_s) == pytest.approx(work_s)
    slowest, fastest = (np.exp(pick(example().noise.log_residuals)) for pick in (max, min))
    assert fastest * work_s - 1e-9 <= end_s - start_s <= slowest * work_s + 1e-9


def test_a_quiet_host_has_no_noise() -> None:
    host = Host(example(), np.random.default_rng(0), noise=False)
    assert (host.end_s(3.0, 4.0), host.work_s(3.0, 7.0)) == (7.0, 4.0)


def test_epochs_are_drawn_as_runs_of_what_was_measured() -> None:
    residuals = tuple(0.01 * n for n in range(40))
    noise = example().noise
    host = Host(
        calibrated(noise=type(noise)(epoch_s=1.0, log_residuals=residuals, step_sigma=0.0)), np.random.default_rng(0)
    )
    host.end_s(0.0, 1e-6)
    logs = [float(np.log(0.1 / host.work_s(n + 0.2, n + 0.3) * 1.0)) for n in range(64)]
    places = [round(100 * each) for each in logs]
    follow = [(before + 1) % 40 == after for before, after in zip(places, places[1:], strict=False)]
    assert sum(follow) >= 55
    assert len(set(places)) > 20


def test_lanes_are_told_when_others_begin_and_end() -> None:
    host = Host(calibrated(coupling=(1.0, 1.2)), np.random.default_rng(0))
    first, second, third = Idle(), Idle(), Idle()
    host.begin(first)
    host.begin(first)
    assert (host.factor, first.retimed) == (1.0, 0)
    host.begin(second)
    assert (host.factor, first.retimed, second.retimed) == (1.2, 1, 0)
    host.begin(third)
    assert (host.factor, first.retimed) == (1.2, 1)
    host.end(third)
    host.end(second)
    host.end(second)
    assert (host.factor, first.retimed) == (1.0, 2)


@given(steps=st.integers(1, 60), first_s=st.floats(0.01, 0.1), growth_s=st.floats(0, 1e-3), share=st.floats(0, 1))
def test_a_stretch_that_is_cut_ends_with_the_step_in_flight(
    steps: int, first_s: float, growth_s: float, share: float
) -> None:
    ends = EqualSteps(steps, first_s, growth_s)
    assert list(ends) == pytest.approx(np.cumsum([first_s + growth_s * n for n in range(steps)]).tolist())
    stretch = Stretch([], [], ends)
    stretch.begin(Host(example(), np.random.default_rng(1)), 0.0, 1.1)
    at_s = share * stretch.end_s
    done = stretch.done(at_s)
    assert stretch.instant(done) <= at_s + 1e-9
    stretch.cut(at_s)
    assert stretch.steps <= done + 1
    assert stretch.end_s >= at_s
    assert stretch.end_s - at_s <= 1.1 * 1.06 * (first_s + growth_s * steps)


def test_step_time_is_the_table_and_the_prompts() -> None:
    model = example().step
    steps = StepTime(model)
    assert steps.decode_s(0) == 0.0
    assert [steps.decode_s(tokens) for tokens, _ in model.decode_s] == [seconds for _, seconds in model.decode_s]
    assert steps.decode_s(160) == pytest.approx(0.145 + 32 * (0.145 - 0.118) / 32)
    assert steps.prompt_s([]) == 0.0
    expected = model.prompt_s + model.prompt_token_s * 300 + model.attention_s * (100 * 50 + 200 * (512 + 100))
    assert steps.prompt_s([(0, 100), (512, 200)]) == pytest.approx(expected)
    assert steps.prompt_s([(0, 100), (512, 200)], decoding=1) == pytest.approx(expected - model.prompt_s)
