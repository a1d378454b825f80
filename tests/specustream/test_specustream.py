"""SpecuStream: modes, caps, controls that expire, guards, and what it counts."""

from collections.abc import Mapping

import pytest

from streamserve.signals import DepthControl, DepthMode, StepCost
from streamserve.specustream.draft import NO_DRAFT, Draft, by_position
from streamserve.specustream.specustream import RunningDraft, SpecuStream, validated

CHEAP = StepCost(((1, 0.0300), (512, 0.0301)))
DEAR = StepCost(((1, 0.01), (2, 0.02), (512, 20.0)))
FIXED = DepthControl(DepthMode.FIXED, depth=3)
OFF = DepthControl(DepthMode.OFF)


def counting(length: int) -> Draft:
    """0, 1, 2, ... as a drafter would propose that says nothing about its tokens."""
    return by_position(range(length), 8)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Lane:
    """A lane of requests whose drafts are right up to the same position."""

    def __init__(
        self, default: DepthControl, requests: int = 2, right: int = 8, cost: StepCost = CHEAP, length: int = 8
    ) -> None:
        self.expected_tokens = 0
        self.clock = Clock()
        self.specustream = SpecuStream(default, 8, self.clock)
        self.drafts = {f"r{request}": RunningDraft(counting(length)) for request in range(requests)}
        self.right = right
        self.cost = cost

    def decide(self, kv_used: float = 0.1, preempted: bool = False) -> Mapping[str, int]:
        return self.specustream.decide(self.drafts, len(self.drafts), self.expected_tokens, kv_used, preempted)

    def step(self, steps: int = 1) -> Mapping[str, int]:
        depths: Mapping[str, int] = {}
        for _ in range(steps):
            depths = self.decide()
            for request_id, depth in depths.items():
                accepted = min(depth, self.right)
                bonus = accepted if accepted < self.right else 99
                self.specustream.observe(request_id, [*range(accepted), bonus])
            draft_tokens = sum(depths.values())
            decode_tokens = len(depths) + draft_tokens
            self.specustream.step(self.cost.decode_step_s(decode_tokens), 0, decode_tokens, draft_tokens)
        return depths


@pytest.mark.parametrize(
    ("control", "depth"),
    [
        (OFF, 0),
        (FIXED, 3),
        (DepthControl(DepthMode.FIXED, depth=20), 8),
        (DepthControl(DepthMode.FIXED, depth=5, max_depth=2), 2),
        (DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.5), 0),
        (DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.2), 2),
        (DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.0, max_depth=5), 5),
    ],
)
def test_modes_before_anything_is_known(control: DepthControl, depth: int) -> None:
    assert Lane(control).decide() == {"r0": depth, "r1": depth}


def test_caps_of_draft_and_request_hold_in_every_mode() -> None:
    for control in (DepthControl(DepthMode.FIXED, depth=8), DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.0)):
        specustream = SpecuStream(control, 6, Clock())
        drafts = {
            "cap": RunningDraft(counting(8), 1),
            "last": RunningDraft(counting(8), -1),
            "short": RunningDraft(counting(2)),
            "none": RunningDraft(NO_DRAFT),
            "free": RunningDraft(counting(8)),
        }
        depths = specustream.decide(drafts, 5, 0, 0.0, preempted=False)
        assert depths == {"cap": 1, "last": 0, "short": 2, "none": 0, "free": 6}


def test_speculates_deep_where_it_is_right_and_cheap_and_not_where_it_is_dear_or_wrong() -> None:
    assert Lane(DepthControl()).step(100) == {"r0": 8, "r1": 8}
    assert Lane(DepthControl(), cost=DEAR).step(100) == {"r0": 0, "r1": 0}
    assert set(Lane(DepthControl(), requests=16, right=0, cost=StepCost()).step(200).values()) == {0}


def test_depth_follows_the_kinds_of_a_draft() -> None:
    """Tokens of kind 0 are always right and those of kind 1 never."""
    specustream = SpecuStream(DepthControl(), 8, Clock(), guesses=(0.5, 0.5))
    cost = StepCost()
    for _ in range(200):
        specustream.decide({"r": RunningDraft(Draft([1, 2], [0, 1]))}, 1, 0, 0.0, preempted=False)
        specustream.observe("r", [1, 9])
        specustream.step(cost.decode_step_s(3), 0, 3, 2)
    drafts = {
        "both": RunningDraft(Draft([1, 2, 3], [0, 0, 1])),
        "wrong": RunningDraft(Draft([1, 2, 3], [1, 0, 0])),
    }
    assert specustream.decide(drafts, 2, 0, 0.0, preempted=False) == {"both": 2, "wrong": 0}


@pytest.mark.parametrize("control", [OFF, FIXED, DepthControl(), DepthControl(DepthMode.TARGET_ACCEPTANCE)])
def test_what_it_learns_of_a_token_does_not_depend_on_the_depth(control: DepthControl) -> None:
    """All drafts are wrong at their first token, so that every depth shows the same."""
    lane, other = Lane(control, right=0), Lane(OFF, right=0)
    for _ in range(50):
        lane.step()
        other.step()
    assert lane.specustream.acceptance == other.specustream.acceptance


def test_learns_at_depth_zero() -> None:
    lane = Lane(OFF)
    lane.step(100)
    assert lane.specustream.acceptance[0] > 0.95
    assert lane.specustream.draft_tokens_total == 0


def test_a_control_acts_at_the_next_step_and_expires() -> None:
    lane = Lane(OFF)
    lane.specustream.set_control(FIXED, ttl_s=2.0)
    assert set(lane.decide().values()) == {3}
    lane.clock.now_s = 2.0
    assert lane.specustream.control == OFF
    assert set(lane.decide().values()) == {0}
    lane.specustream.set_control(FIXED, ttl_s=2.0)
    lane.specustream.set_control(None, ttl_s=2.0)
    assert set(lane.decide().values()) == {0}


@pytest.mark.parametrize(
    "control",
    [
        DepthControl(depth=-1),
        DepthControl(target=float("nan")),
        DepthControl(target=1.5),
        DepthControl(price=float("nan")),
        DepthControl(price=float("inf")),
        DepthControl(price=-0.1),
        DepthControl(max_depth=-1),
    ],
)
def test_controls_that_make_no_sense_are_refused(control: DepthControl) -> None:
    with pytest.raises(ValueError, match="must be"):
        validated(control)
    specustream = SpecuStream(OFF, 8, Clock())
    with pytest.raises(ValueError, match="must be"):
        specustream.set_control(control, 1.0)
    assert specustream.control == OFF


def test_full_kv_and_preemptions_stop_speculation_but_not_a_fixed_depth() -> None:
    lane = Lane(DepthControl())
    lane.step(100)
    assert not any(lane.decide(kv_used=0.96).values())
    assert any(lane.decide().values())
    assert not any(lane.decide(preempted=True).values())
    assert not any(any(lane.decide().values()) for _ in range(15))
    assert any(lane.decide().values())
    lane.specustream.set_control(FIXED, 9.0)
    assert set(lane.decide(kv_used=0.96, preempted=True).values()) == {3}


@pytest.mark.parametrize(("requests", "depth"), [(2, 4), (8, 2), (9, 0)])
def test_while_cost_is_unknown_depth_follows_the_batch(requests: int, depth: int) -> None:
    assert set(Lane(DepthControl(), requests).decide().values()) == {depth}


def test_an_unknown_cost_does_not_block_speculation_for_ever() -> None:
    assert set(Lane(DepthControl(), requests=16).step(150).values()) == {8}


def test_while_acceptance_is_unknown_no_request_goes_deep() -> None:
    lane = Lane(DepthControl(price=0.0))
    for tokens in (2, 8, 64):
        lane.specustream.step(0.03, 0, tokens, 0)
    assert set(lane.decide().values()) == {4}
    assert set(lane.step(100).values()) == {8}


def test_speculation_that_does_not_pay_is_suspended_and_tried_again() -> None:
    lane = Lane(DepthControl(price=0.0), requests=4, right=1, cost=StepCost())
    suspended = [not any(lane.step().values()) for _ in range(400)]
    assert lane.specustream.fallbacks >= 2
    assert any(suspended[index : index + 64] == [True] * 64 for index in range(336))
    assert not all(suspended[200:])


def test_prompts_that_were_expected_and_did_not_come_do_not_make_speculation_look_good() -> None:
    lane = Lane(DepthControl(price=0.0), requests=4, right=1, cost=StepCost())
    lane.expected_tokens = 2048
    lane.step(400)
    assert lane.specustream.fallbacks >= 2


def test_now_and_then_a_step_without_drafts_shows_what_they_gain() -> None:
    lane = Lane(DepthControl(), requests=4)
    lane.step(200)
    plain = sum(not any(lane.step().values()) for _ in range(1024))
    assert plain == 4


def test_a_fixed_depth_is_never_suspended() -> None:
    lane = Lane(FIXED, right=0, cost=DEAR)
    assert set(lane.step(300).values()) == {3}
    assert lane.specustream.fallbacks == 0


def test_counts_what_was_verified_and_accepted() -> None:
    lane = Lane(FIXED, right=2)
    lane.step(101)
    assert lane.specustream.draft_tokens_total == 101 * 2 * 3
    assert lane.specustream.accepted_tokens_total == 101 * 2 * 2
    assert lane.specustream.step_output == pytest.approx(3.0, abs=0.05)
    assert lane.specustream.cost.steps == 101


def test_requests_without_a_draft_and_forgotten_ones_are_no_trouble() -> None:
    lane = Lane(FIXED)
    lane.decide()
    lane.specustream.observe("unknown", [1, 2])
    lane.specustream.forget("r0")
    lane.specustream.observe("r0", [0, 1])
    lane.specustream.observe("r1", [])
    assert lane.specustream.accepted_tokens_total == 0
    assert lane.specustream.acceptance == SpecuStream(OFF, 8, lane.clock).acceptance
