"""What is expected of deadlines: FlowGuard's own chances, until they are booked or met."""

import pytest

from envs.expectation import chance
from envs.reward import Ledger
from streamserve.flowguard import kernels
from streamserve.types import Finish, Result, Slo
from tests.envs.scenes import heuristic, plain, simulated
from tests.fakes import make_request

SLO = Slo(1.0, 0.1)


def test_a_chance_is_what_flowguard_s_score_is_short_of_1() -> None:
    for predicted_s in (0.05, 0.1, 0.5, 1.0, 50.0):
        assert 1 - chance(predicted_s, 0.5) == pytest.approx(kernels.chance(predicted_s, 0.5))


def test_what_is_allowed_for_ever_is_never_missed() -> None:
    assert chance(1e9, None) == 0.0
    assert chance(float("inf"), 1.0) == 1.0
    assert chance(0.0, 1.0) == 0.0


def expecting(max_tokens: int = 11, ttft_s: float = 1.0, tpot_s: float = 0.1) -> Ledger:
    ledger = Ledger(0.0)
    ledger.arrived(make_request("r", max_tokens=max_tokens), SLO)
    ledger.expect("r", ttft_s, tpot_s)
    return ledger


def test_a_first_token_settles_its_deadline_and_the_end_all() -> None:
    ledger = expecting(tpot_s=0.2)
    assert ledger.expected_missed == pytest.approx(0.5 + 16 / 17)
    ledger.first_token("r", 0.8)
    assert ledger.expected_missed == pytest.approx(16 / 17)
    ledger.ended(Result("r", None, 3, 11, 0.0, 1.5, Finish.LENGTH, first_token_s=0.8, slo=SLO))
    assert ledger.expected_missed == 0.0


def test_a_deadline_that_is_booked_is_expected_no_more() -> None:
    ledger = expecting()
    assert ledger.settle(1.5).slo == 1
    assert ledger.expected_missed == pytest.approx(0.5)
    ledger.first_token("r", 1.6)
    assert ledger.settle(3.0).slo == 1
    assert ledger.expected_missed == 0.0


def test_a_request_that_is_sent_again_is_expected_anew() -> None:
    ledger = expecting()
    ledger.expect("r", 0.0, 0.0)
    assert ledger.expected_missed == 0.0


def test_one_token_has_no_pace_and_a_stranger_no_deadline() -> None:
    ledger = expecting(max_tokens=1, ttft_s=0.0, tpot_s=9.0)
    ledger.expect("stranger", 9.0, 9.0)
    assert ledger.expected_missed == 0.0


def test_an_episode_tells_what_is_expected_and_ends_with_nothing() -> None:
    environment = simulated("Route", config=plain(), requests=40, drain=True, load=1.5, slo=Slo(0.2, 0.045))
    _, infos, terminated, _ = heuristic(environment)
    expected = [info["expected_missed"] for info in infos]
    assert terminated
    assert expected[0] == expected[-1] == 0.0
    assert max(expected) > 2.0
    environment.close()


def test_what_is_left_at_the_horizon_is_expected_still() -> None:
    environment = simulated("Route", config=plain(), requests=40, load=1.5, slo=Slo(0.2, 0.045))
    _, infos, terminated, _ = heuristic(environment)
    assert not terminated and infos[-1]["expected_missed"] > 0.0
    environment.close()
