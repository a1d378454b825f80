"""Agent: a router that asks somebody outside of this process, and waits for the answer no longer than it may."""

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, replace

from streamserve.clock import now
from streamserve.errors import Undecided
from streamserve.flowguard.assessment import Assessment, Place
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.metrics.policy import Fallback, PolicyTally
from streamserve.policy.codec import Codec
from streamserve.policy.question import Answer, Question
from streamserve.policy.rhythm import Rhythm
from streamserve.policy.wire import Ask, Over, Reply, Told
from streamserve.signals import Signals
from streamserve.types import Decision, Request

logger = logging.getLogger(__name__)

WAY = "agent"


@dataclass(slots=True, eq=False)
class _Held:
    """The decision that the line waits for."""

    number: int
    question: Question
    signals: Signals
    alarm: asyncio.TimerHandle
    answer: Answer | None = None
    instead: Fallback | None = None
    """Why FlowGuard decides now."""


class Agent:
    """Asks for one decision after the other; FlowGuard takes those that have no answer in time.

    Requests stand in line behind the one that is asked about, so what counts is not the time of one answer: no request
    waits for the agent longer than `budget_s` in all. An agent that was late is not asked again before it has answered.

    Nor is it asked while more than `most_queued` requests are queued: none is to be refused on its account.
    """

    def __init__(
        self,
        flowguard: FlowGuard,
        codec: Codec,
        budget_s: float,
        rhythm: Rhythm,
        tally: PolicyTally,
        most_queued: int = 512,
    ) -> None:
        self.codec = codec
        self.budget_s = budget_s
        self.decisions = 0
        """Those that it took."""
        self._flowguard = flowguard
        self._rhythm = rhythm
        self._tally = tally
        self._most_queued = most_queued
        self._send: Callable[[Told], None] = lambda _message: None
        self._look: Callable[[], None] = lambda: None
        self._held: _Held | None = None
        self._number = 0
        self._owes = False
        """Whether it was late and has not answered since."""
        self._beaten: str | None = None
        self._blocked_s = 0.0
        self._blocked_since_s: float | None = None
        self._before_s: dict[str, float] = {}
        """Request -> for how long the line had been blocked when it came."""

    def attach(self, send: Callable[[Told], None], look: Callable[[], None]) -> None:
        """Ask from now on. send: takes a message without waiting. look: has the scheduler ask `route` again."""
        self._send, self._look = send, look

    def arrived(self, request_id: str) -> None:
        """A request has come."""
        self._before_s[request_id] = self._blocked(now())

    def ended(self, request_id: str) -> None:
        """A request has ended."""
        self._before_s.pop(request_id, None)

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`, and `Undecided` while the agent may still answer."""
        held = self._held
        if held is not None and not held.question.holds(held.answer, held.signals, request, signals):
            self._drop(held)
            held = None
        full = signals.queued >= self._most_queued
        if held is None:
            if self._owes:
                return self._by_flowguard(request, signals, Fallback.COOLING)
            left_s = self.budget_s - self._blocked(now()) + self._before_s.get(request.id, 0.0)
            if left_s <= 0 or full:
                return self._by_flowguard(request, signals, Fallback.LATE)
            if self._ask(request, signals, left_s):
                raise Undecided
            return self._by_flowguard(request, signals, Fallback.FAILED)
        if full and held.answer is None:
            self._give_up(held)
        if held.instead is not None:
            decision = self._by_flowguard(request, signals, held.instead)
            self._held = None
            return decision
        if held.answer is None:
            raise Undecided
        self._held = None
        return self._follow(held, held.answer, signals.at_s)

    def reply(self, reply: Reply) -> None:
        """The agent's answer, which may come too late."""
        if reply.number == self._number:
            self._owes = False
        held = self._held
        if held is None or held.number != reply.number or held.instead is not None or held.answer is not None:
            return
        held.alarm.cancel()
        self._unblock()
        caps = len(self.codec.depth_caps)
        valid = 0 <= reply.row < self.codec.most_pairs and 0 <= reply.cap < caps
        held.answer = self.codec.answer(held.question, reply.row * caps + reply.cap, depth=True) if valid else None
        if held.answer is None:
            held.instead = Fallback.INVALID
            self._send(Over(held.number))
        self._look()

    def leave(self) -> None:
        """The agent has gone: nothing is asked any more, nobody waits. Whoever decides then is asked by `look`."""
        held, self._held = self._held, None
        self._send = lambda _message: None
        self._unblock()
        if held is not None:
            held.alarm.cancel()
            if held.answer is None:
                self._tally.fell_back(Fallback.GONE)
        look, self._look = self._look, lambda: None
        look()

    def _ask(self, request: Request, signals: Signals, left_s: float) -> bool:
        """Whether it could be asked. Raises `NoLane`."""
        assessment = self._flowguard.assess(request, signals)
        own = self._flowguard.best(assessment)
        try:
            ask, question = self._asked(assessment, own, signals)
        except Exception:
            # Whatever is wrong with it, requests are served.
            logger.exception("the agent could not be asked, the heuristic decides; see the traceback")
            return False
        if self._blocked_since_s is None:
            self._blocked_since_s = now()
        # In a context of its own, or the alarm would keep that of some request.
        alarm = asyncio.get_running_loop().call_later(left_s, self._late, ask.number, context=Context())
        self._held = _Held(ask.number, question, signals, alarm)
        self._send(ask)
        return True

    def _asked(self, assessment: Assessment, own: Place, signals: Signals) -> tuple[Ask, Question]:
        request_id = assessment.view.request.id
        again = request_id == self._beaten
        beat = self._rhythm.at(signals.at_s) if again else self._rhythm.beat(signals.at_s)
        self._beaten = request_id
        question = self.codec.question(assessment, own, signals, beat)
        self._number += 1
        return Ask.of(self._number, question, signals), question

    def _late(self, number: int) -> None:
        held = self._held
        if held is not None and held.number == number:
            self._give_up(held)
            self._look()

    def _give_up(self, held: _Held) -> None:
        """Do not wait for its answer any more."""
        if held.instead is None:
            held.alarm.cancel()
            held.instead = Fallback.LATE
            self._owes = True
            self._unblock()
            self._send(Over(held.number))

    def _drop(self, held: _Held) -> None:
        """It is about a request that is not the first any more, or about lanes that have changed."""
        held.alarm.cancel()
        self._held = None
        self._unblock()
        if held.instead is None:
            self._send(Over(held.number))

    def _by_flowguard(self, request: Request, signals: Signals, why: Fallback) -> Decision:
        decision = self._flowguard.route(request, signals)
        if request.id != self._beaten:
            self._rhythm.beat(signals.at_s)
            self._beaten = request.id
        self._tally.fell_back(why)
        self._tally.decided(WAY, by_policy=False)
        return replace(decision, reason=f"{decision.reason}; not by the agent: {why}")

    def _follow(self, held: _Held, answer: Answer, at_s: float) -> Decision:
        own = Answer(held.question.places[held.question.heuristic], None)
        self.decisions += 1
        self._tally.answered(answer == own)
        self._tally.decided(WAY, by_policy=True)
        reason = "the agent: as FlowGuard" if answer.place == own.place else "the agent: another pair"
        decision = self.codec.decide(self._flowguard, held.question, answer, WAY, reason)
        # Not when it was asked: what the agent took to answer is no time of the lanes.
        return replace(decision, at_s=at_s)

    def _blocked(self, at_s: float) -> float:
        """For how long the line has waited for the agent, in all."""
        return self._blocked_s + (0.0 if self._blocked_since_s is None else at_s - self._blocked_since_s)

    def _unblock(self) -> None:
        self._blocked_s, self._blocked_since_s = self._blocked(now()), None
