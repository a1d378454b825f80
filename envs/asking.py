"""Routers that have an agent decide: FlowGuard assesses, the agent picks, FlowGuard remembers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from envs.reward import Cost, Ledger
from envs.talk import Abandoned
from streamserve.errors import Undecided
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.policy.codec import Codec
from streamserve.policy.question import Answer, Question
from streamserve.policy.rhythm import Beat, Rhythm
from streamserve.signals import Signals
from streamserve.types import Decision, Request, Result

ROUTER = "agent"


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One decision that waits for its answer."""

    question: Question
    signals: Signals
    cost: Cost
    """Since the decision before."""
    expected_missed: float
    """Deadlines, by the requests that were decided before."""

    @property
    def request(self) -> Request:
        return self.question.assessment.view.request


class Inquiry:
    """Makes questions of requests, and decisions of answers."""

    def __init__(self, flowguard: FlowGuard, codec: Codec, ledger: Ledger) -> None:
        self.flowguard = flowguard
        self._codec = codec
        self._ledger = ledger
        self._rhythm = Rhythm()
        self._beat = Beat()
        self._beaten: str | None = None
        """The request of the last beat: one that is asked about again has not come again."""

    def about(self, request: Request, signals: Signals) -> Asked:
        """The decision to take now. Raises `NoLane`."""
        assessment = self.flowguard.assess(request, signals)
        best = self.flowguard.best(assessment)
        if request.id != self._beaten:
            self._beaten, self._beat = request.id, self._rhythm.beat(signals.at_s)
        question = self._codec.question(assessment, best, signals, self._beat)
        cost = self._ledger.settle(signals.at_s)
        return Asked(question, signals, cost, self._ledger.expected_missed)

    def decide(self, asked: Asked, answer: Answer) -> Decision:
        """The answer as a decision."""
        decision = self._codec.decide(self.flowguard, asked.question, answer, ROUTER)
        if (predicted := decision.prediction) is not None:
            waited_s = asked.question.assessment.view.waited_s
            self._ledger.expect(asked.request.id, waited_s + predicted.ttft_s, predicted.tpot_s)
        return decision


class WaitingRouter:
    """Waits for the agent inside of `route`, while virtual time and everything else stands still.

    ask: raises `Abandoned` when the agent has gone; then `give_up` is called.
    """

    def __init__(self, inquiry: Inquiry, ask: Callable[[Asked], Answer], give_up: Callable[[], None]) -> None:
        self._inquiry = inquiry
        self._ask = ask
        self._give_up = give_up

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`, and `Undecided` for good when the agent has gone."""
        asked = self._inquiry.about(request, signals)
        try:
            return self._inquiry.decide(asked, self._ask(asked))
        except Abandoned:
            self._give_up()
            raise Undecided from None

    def learn(self, result: Result) -> None:
        self._inquiry.flowguard.learn(result)


class AskingRouter:
    """Has no answer at first: `route` raises `Undecided` until `answer` has it, while everything else goes on.

    An answer holds for the request and the lanes that it was given for; when those have changed since, the agent is
    asked again.
    """

    def __init__(self, inquiry: Inquiry, post: Callable[[Asked], None]) -> None:
        self._inquiry = inquiry
        self._post = post
        self._asked: Asked | None = None
        self._answer: Answer | None = None

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane` and `Undecided`."""
        asked, answer = self._asked, self._answer
        if asked is None or not asked.question.holds(answer, asked.signals, request, signals):
            self._asked = self._answer = None
            self._asked = self._inquiry.about(request, signals)
            self._post(self._asked)
            raise Undecided
        if answer is None:
            raise Undecided
        self._asked = self._answer = None
        # Not when it was asked: what the agent took to answer is no time of the lanes.
        return replace(self._inquiry.decide(asked, answer), at_s=signals.at_s)

    def answer(self, asked: Asked, answer: Answer) -> None:
        """What the agent says; ignored where it is asked something else by now. Then have the scheduler look."""
        if asked is self._asked:
            self._answer = answer

    def learn(self, result: Result) -> None:
        self._inquiry.flowguard.learn(result)
