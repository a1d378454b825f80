"""Policies over simulated lanes: the whole of serving, in virtual time."""

from pathlib import Path

import pytest

from streamserve.config import Config, LaneConfig, PolicyConfig
from streamserve.policy import store
from streamserve.policy.card import Kind
from streamserve.policy.switch import PolicySwitch
from streamserve.simulation.options import SimOptions
from streamserve.simulation.run import simulate
from streamserve.types import Finish, Result
from streamserve.workload.plan import Plan, Planned
from tests import calibrations
from tests.policy.policies import LANES, choosing, make_policy
from tests.policy.test_spec import always

CALIBRATION = calibrations.example()
PLAN: Plan = tuple(Planned(0.15 * n, tuple(range(n % 7, n % 7 + 20 + 13 * (n % 9))), 30, "mix") for n in range(60))


def served(folder: Path, mode: str = "learned") -> tuple[list[Result], PolicySwitch]:
    """What comes of the plan with the policy in this folder, or with none."""
    source = str(folder) if folder.is_dir() else "heuristic"
    config = Config(
        lanes=[LaneConfig(lane) for lane in LANES],
        model="example",
        policy=PolicyConfig(source=source, mode=mode, budget_us=None),
    )
    switch = PolicySwitch(config)
    assert switch.report()["refused"] is None
    results = simulate(PLAN, config, CALIBRATION, SimOptions(seed=3), switch).run.results
    assert {result.finish for result in results} == {Finish.LENGTH}
    return sorted(results, key=lambda result: result.request_id), switch


def times(results: list[Result]) -> list[tuple[str, float | None, float]]:
    return [(result.request_id, result.first_token_s, result.finished_s) for result in results]


def mean_e2e_s(results: list[Result]) -> float:
    return sum(result.e2e_s for result in results) / len(results)


@pytest.mark.parametrize("kind", ["route", "serve"])
def test_untrained_nothing_changes(tmp_path: Path, kind: Kind) -> None:
    policy = make_policy(kind)
    store.save(tmp_path / "policy", policy.card, policy.weights)
    results, switch = served(tmp_path / "policy")
    assert switch.tally.agreed == switch.tally.asked > 0
    assert times(results) == times(served(tmp_path / "none")[0])


def test_untrained_control_of_the_lanes_hardly_changes_anything(tmp_path: Path) -> None:
    policy = make_policy("spec")
    store.save(tmp_path / "policy", policy.card, policy.weights)
    results, switch = served(tmp_path / "policy")
    assert switch.tally.agreed == switch.tally.asked > 0
    # A simulated lane that is told its control again decides again.
    undisturbed_s = mean_e2e_s(served(tmp_path / "none")[0])
    assert mean_e2e_s(results) == pytest.approx(undisturbed_s, rel=0.1)


def test_in_shadow_nothing_changes(tmp_path: Path) -> None:
    policy = make_policy(seed=1, trained=True, kappa=10.0, tau=0.5)
    store.save(tmp_path / "policy", policy.card, policy.weights)
    results, switch = served(tmp_path / "policy", "shadow")
    assert switch.tally.agreed < switch.tally.asked == len(PLAN)
    assert times(results) == times(served(tmp_path / "none")[0])


def test_depth_reaches_the_lanes(tmp_path: Path) -> None:
    undisturbed = served(tmp_path / "none")[0]
    capped, lanes = choosing(1), always(3)
    store.save(tmp_path / "caps", capped.card, capped.weights)
    store.save(tmp_path / "lanes", lanes.card, lanes.weights)
    for name in ("caps", "lanes"):
        results, switch = served(tmp_path / name)
        assert switch.tally.agreed == 0
        assert times(results) != times(undisturbed)
