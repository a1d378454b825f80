"""A policy controls the depth of the lanes, tick by tick, in virtual time."""

import asyncio
import logging
from collections.abc import Mapping

import numpy as np
import pytest

from streamserve.clock import now
from streamserve.config import PolicyConfig
from streamserve.errors import LaneLost
from streamserve.metrics.policy import Fallback, PolicyTally
from streamserve.policy.card import Bounds
from streamserve.policy.controls import CONTROLS
from streamserve.policy.mode import Mode, Way, parse
from streamserve.policy.network import Weights
from streamserve.policy.rhythm import Rhythm
from streamserve.policy.spec import TTL_TICKS, SpecController, SpecPolicy
from streamserve.policy.store import Policy
from streamserve.signals import DepthControl, LaneLoad, LaneSignals, Signals
from streamserve.types import LaneId, LaneState
from streamserve.virtual import run
from tests.policy.policies import make_card, make_policy, make_weights

A, B = LaneId("a"), LaneId("b")
LEARNED = Mode(Way.LEARNED)


def always(index: int, **card: Mapping[str, Bounds]) -> Policy:
    """A policy that chooses this control for every lane."""
    arrays = make_weights("spec", kappa=10.0, tau=1.0, penalty=0.0).arrays()
    arrays["b4"][index] = 5.0
    return Policy(make_card("spec", **card), Weights.of(arrays))


class Lanes:
    """Whose controls are noted; a lane in `broken` cannot be set, one in `slow` does not answer."""

    def __init__(
        self,
        speculating: tuple[LaneId, ...] = (A, B),
        broken: tuple[LaneId, ...] = (),
        slow: tuple[LaneId, ...] = (),
    ) -> None:
        self.set: list[tuple[float, LaneId, DepthControl | None, float]] = []
        self.speculating = speculating
        self.broken = broken
        self.slow = slow

    def signals(self) -> Signals:
        snapshots = {
            lane: LaneSignals(lane, LaneState.READY, now(), depth=DepthControl() if lane in self.speculating else None)
            for lane in (A, B)
        }
        return Signals(now(), snapshots, dict.fromkeys((A, B), LaneLoad()))

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None:
        if lane in self.broken:
            raise LaneLost(f"{lane} is lost")
        if lane in self.slow:
            await asyncio.get_running_loop().create_future()
        self.set.append((now(), lane, control, ttl_s))


def controlled(
    policy: Policy, lanes: Lanes, mode: Mode = LEARNED, seconds: float = 1.9, tick_s: float = 0.5
) -> PolicyTally:
    """Let it control these lanes for so long."""
    tally = PolicyTally()

    async def scenario() -> None:
        controller = SpecController(policy, mode, PolicyConfig(control_s=tick_s), Rhythm(), tally)
        controller.start(lanes)
        await asyncio.sleep(seconds)
        await controller.aclose()
        await controller.aclose()
        await asyncio.sleep(seconds)

    run(scenario())
    return tally


@pytest.mark.parametrize("index", range(len(CONTROLS)))
def test_every_tick_renews_what_the_policy_chooses(index: int) -> None:
    lanes = Lanes()
    controlled(always(index), lanes)
    ticks = [0.0, 0.5, 1.0, 1.5]
    assert [(at_s, lane) for at_s, lane, _, _ in lanes.set] == [(at_s, lane) for at_s in ticks for lane in (A, B)]
    assert {control for _, _, control, _ in lanes.set} == {CONTROLS[index]}
    assert {ttl_s for _, _, _, ttl_s in lanes.set} == {TTL_TICKS * 0.5}


def test_an_untrained_policy_chooses_what_the_heuristic_does() -> None:
    lanes = Lanes()
    tally = controlled(make_policy("spec"), lanes)
    assert {control for _, _, control, _ in lanes.set} == {CONTROLS[0]}
    assert tally.agreed == tally.asked == 8


def test_a_lane_that_drafts_nothing_is_left_alone() -> None:
    lanes = Lanes(speculating=(B,))
    controlled(always(3), lanes)
    assert {lane for _, lane, _, _ in lanes.set} == {B}


@pytest.mark.parametrize("mode", ["shadow", "heuristic"])
def test_off_means_off(mode: str) -> None:
    lanes = Lanes()
    controlled(always(3), lanes, parse(mode))
    assert lanes.set == []


def test_a_canary_has_a_share_of_the_lanes() -> None:
    lanes, mode = Lanes(), parse("canary:0.5")
    controlled(always(3), lanes, mode)
    assert {lane for _, lane, _, _ in lanes.set} == {lane for lane in (A, B) if mode.tries(lane)}


def test_a_lane_that_cannot_be_set_does_not_keep_the_others_from_it(caplog: pytest.LogCaptureFixture) -> None:
    lanes = Lanes(broken=(A,))
    with caplog.at_level(logging.INFO):
        controlled(always(3), lanes)
    assert [lane for _, lane, _, _ in lanes.set] == [B] * 4
    assert "could not set the depth of a" in caplog.text


def test_a_lane_that_is_long_in_its_step_does_not_keep_the_others_waiting() -> None:
    lanes = Lanes(slow=(A,))
    controlled(always(3), lanes, seconds=3.9)
    assert [(at_s, lane) for at_s, lane, _, _ in lanes.set] == [(0.0, B), (1.0, B), (2.0, B), (3.0, B)]


def test_outside_the_envelope_lanes_keep_their_default() -> None:
    card = make_card("spec")
    narrow = {name: Bounds([5.0] * len(each.low), [6.0] * len(each.low)) for name, each in card.envelope.items()}
    lanes = Lanes()
    tally = controlled(always(3, envelope=narrow), lanes)
    assert lanes.set == [] and tally.fallbacks == {Fallback.OUTSIDE: 8}


def test_an_output_that_is_not_finite() -> None:
    policy = always(3)
    policy.weights.b2[0] = np.nan
    lanes = Lanes()
    assert controlled(policy, lanes).fallbacks == {Fallback.NOT_FINITE: 8}
    assert lanes.set == []


def test_an_error_ends_it_in_one_log_entry(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Lanes):
        def signals(self) -> Signals:
            raise RuntimeError("broken")

    assert controlled(always(3), Broken()).fallbacks == {Fallback.FAILED: 1}
    assert len(caplog.records) == 1 and "failed at a control tick" in caplog.text


def test_permuting_lanes_permutes_the_controls() -> None:
    policy = SpecPolicy(make_policy("spec", trained=True, kappa=10.0), 1.0)
    ids = [LaneId(name) for name in "abcd"]
    snapshots = {
        lane: LaneSignals(lane, LaneState.READY, 0.0, running=n, step_output=1 + n / 2, depth=DepthControl())
        for n, lane in enumerate(ids)
    }
    load = {lane: LaneLoad(n, 100 * n, 2 * n) for n, lane in enumerate(ids)}
    seen = []
    for order in (ids, ids[::-1]):
        signals = Signals(0.0, {lane: snapshots[lane] for lane in order}, {lane: load[lane] for lane in order})
        seen.append(dict(policy.controls(signals, Rhythm())))
    assert seen[0] == seen[1] and len(seen[0]) == 4
