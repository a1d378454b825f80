"""Routers that wait for an agent: when an answer holds and when the agent is asked again."""

from dataclasses import replace
from typing import Any

import pytest

from envs.asking import Asked, AskingRouter, Inquiry, WaitingRouter
from envs.reward import Ledger
from envs.talk import Abandoned, Broken, End, Talk
from streamserve.errors import NoLane, Undecided
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.policy.codec import Codec
from streamserve.policy.layout import CONTEXT
from streamserve.policy.question import Answer
from streamserve.types import LaneState
from tests.fakes import make_request
from tests.flowguard.snapshots import A, B, lane, signals

OWN = ((A, A), (B, B))
BOTH = signals(lane(A), lane(B))
ONE, OTHER = make_request("one"), make_request("other")


def inquiry() -> Inquiry:
    return Inquiry(FlowGuard(OWN), Codec(), Ledger(0.0))


@pytest.fixture
def asked() -> list[Asked]:
    return []


@pytest.fixture
def router(asked: list[Asked]) -> AskingRouter:
    return AskingRouter(inquiry(), asked.append)


def ask(router: Any, request: Any = ONE, seen: Any = BOTH) -> None:
    with pytest.raises(Undecided):
        router.route(request, seen)


def test_it_is_asked_once_and_decides_as_it_is_told(router: AskingRouter, asked: list[Asked]) -> None:
    ask(router)
    ask(router)
    assert len(asked) == 1
    router.answer(asked[0], Answer((1, 1), 2))
    decision = router.route(ONE, replace(BOTH, at_s=3.0))
    assert (decision.prefill, decision.decode, decision.max_depth) == (B, B, 2)
    ask(router)
    assert len(asked) == 2


def test_a_request_that_is_asked_about_again_has_not_come_again(router: AskingRouter, asked: list[Asked]) -> None:
    ask(router)
    lost = lane(B, state=LaneState.LOST)
    ask(router, ONE, signals(lane(A), lost, at_s=1.0))
    ask(router, OTHER, signals(lane(A), lost, at_s=4.0))
    first, again, other = (each.question.observation["context"] for each in asked)
    fast, gap = CONTEXT.places["fast_rate_per_lane"], CONTEXT.places["gap_s"]
    assert again[fast] == first[fast] < other[fast]
    assert again[gap] == first[gap] == 0 < other[gap]


def test_an_answer_is_for_the_question_that_stands(router: AskingRouter, asked: list[Asked]) -> None:
    ask(router)
    ask(router, OTHER)
    router.answer(asked[0], Answer((1, 1), None))
    ask(router, OTHER)
    assert [each.request.id for each in asked] == ["one", "other"]
    router.answer(asked[1], Answer((0, 0), None))
    assert router.route(OTHER, BOTH).decode == A


def test_when_the_lanes_have_changed_it_is_asked_again(router: AskingRouter, asked: list[Asked]) -> None:
    ask(router)
    router.answer(asked[0], Answer((1, 1), None))
    lost = signals(lane(A), lane(B, state=LaneState.LOST))
    ask(router, ONE, lost)
    assert asked[1].question.places == ((0, 0),)
    ask(router, ONE, BOTH)
    router.answer(asked[2], Answer((1, 1), None))
    ask(router, ONE, replace(BOTH, room=frozenset({A})))
    router.answer(asked[3], Answer((0, 0), None))
    assert router.route(ONE, replace(BOTH, room=frozenset({A}))).decode == A


def test_without_any_lane_there_is_nothing_to_ask(router: AskingRouter, asked: list[Asked]) -> None:
    ask(router)
    with pytest.raises(NoLane):
        router.route(ONE, signals(lane(A, state=LaneState.LOST), lane(B, state=LaneState.LOST)))
    ask(router)
    assert len(asked) == 2


def test_a_waiting_router_gives_up_when_nobody_answers() -> None:
    gone: list[bool] = []

    def abandoned(_asked: Asked) -> Answer:
        raise Abandoned

    ask(WaitingRouter(inquiry(), abandoned, lambda: gone.append(True)))
    assert gone == [True]


def test_talk_goes_both_ways_until_it_is_abandoned() -> None:
    talk: Talk[str, int] = Talk()
    talk.answer(7)
    assert talk.ask("what?") == 7
    assert talk.next() == "what?"
    with pytest.raises(TimeoutError, match="asked nothing"):
        talk.next(0.01)
    talk.post(Broken(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        talk.next()
    talk.abandon()
    for _ in range(2):
        with pytest.raises(Abandoned):
            talk.ask("still there?")
    assert not isinstance(talk.next(), End)
