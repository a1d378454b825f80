"""LearnedRouter: FlowGuard with a trained policy on top, and its own choice wherever the guard does not trust that."""

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from streamserve.flowguard.assessment import Assessment, Place
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.metrics.policy import Fallback, PolicyTally
from streamserve.policy import interface
from streamserve.policy.guard import Guard
from streamserve.policy.layout import PAIRS
from streamserve.policy.mode import Mode, Way
from streamserve.policy.network import Network, best
from streamserve.policy.question import Answer, Question
from streamserve.policy.rhythm import Beat, Rhythm
from streamserve.policy.store import Policy
from streamserve.signals import Signals
from streamserve.types import Decision, Request, Result

logger = logging.getLogger(__name__)

MOST_PENDING = 4096
FLAG, SCORE = PAIRS.places["heuristic"], PAIRS.places["score"]


class _Trial(NamedTuple):
    """A request of a canary."""

    learned: bool
    expected_tokens: float


class Chooser:
    """A policy of kind `route` or `serve`: questions to answers, with nothing kept in between.

    Raises `PolicyError` if the policy's codec cannot be.
    """

    def __init__(self, policy: Policy) -> None:
        self.codec = interface.codec(policy.card)
        self.depth = policy.card.kind == "serve"
        self._network = Network(policy.weights)
        self._shared = np.empty(sum(self.codec.shapes()[array][0] for array in ("request", "context")), np.float32)

    def choose(self, question: Question) -> Answer | None:
        """The best of the valid actions; None where the network's output is not finite."""
        observation, count = question.observation, len(question.places)
        rows = observation["pairs"][:count]
        request, context = observation["request"], observation["context"]
        self._shared[: len(request)] = request
        self._shared[len(request) :] = context
        with np.errstate(over="ignore", invalid="ignore"):
            logits = self._network.logits(rows, self._shared, rows[:, FLAG] + rows[:, SCORE])
        mask = question.depths[:count] if self.depth else question.rows[:count, None]
        if (chosen := best(logits, mask)) is None:
            return None
        row, choice = chosen
        return Answer(question.places[row], self.codec.depth_caps[choice] if self.depth else None)


class LearnedRouter:
    """Decides as one policy and one mode say.

    flowguard, rhythm and tally outlive the policy.
    Raises `PolicyError` if the policy's codec cannot be.
    """

    name = "learned"

    def __init__(
        self,
        flowguard: FlowGuard,
        policy: Policy,
        mode: Mode,
        guard: Guard,
        rhythm: Rhythm,
        tally: PolicyTally,
    ) -> None:
        self.guard = guard
        self._flowguard = flowguard
        self._chooser = Chooser(policy)
        self._title = policy.card.name
        self._mode = mode
        self._rhythm = rhythm
        self._tally = tally
        self._prepared: set[int] = set()
        self._trials: OrderedDict[str, _Trial] = OrderedDict()

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`."""
        assessment = self._flowguard.assess(request, signals)
        own = self._flowguard.best(assessment)
        way = self._mode.way
        tries = self._mode.tries(request.id)
        if way is Way.CANARY:
            self._note(request, tries, assessment)
        asks = tries or way is Way.SHADOW
        beat = self._rhythm.beat(signals.at_s)
        answered = self._ask(assessment, own, signals, beat) if asks else None
        if isinstance(answered, Fallback):
            self._tally.fell_back(answered)
        if isinstance(answered, Answer):
            self._tally.answered(answered == Answer(own, None))
            if tries:
                self._tally.decided(str(way), by_policy=True)
                return self._follow(assessment, own, answered)
        self._tally.decided(str(way), by_policy=False)
        decision = self._flowguard.choose(assessment, own)
        if isinstance(answered, Answer):
            return replace(decision, reason=f"{decision.reason}; {self._shadowed(assessment, own, answered)}")
        if isinstance(answered, Fallback):
            return replace(decision, reason=f"{decision.reason}; not by policy {self._title}: {answered}")
        return decision

    def learn(self, result: Result) -> None:
        """FlowGuard learns; a canary's arms are compared."""
        self._flowguard.learn(result)
        trial = self._trials.pop(result.request_id, None)
        # An error or a second attempt is a lane's fault, an abort the client's wish.
        if trial is None or result.attempts != 1 or not result.finish.by_itself:
            return
        turned = self.guard.learn(trial.learned, result.e2e_s / max(1.0, trial.expected_tokens))
        if turned is not None:
            logger.warning(
                "policy %s is off: %.3g s per token, the heuristic %.3g s; load another, or it again",
                self._title,
                turned.learned_s,
                turned.heuristic_s,
            )

    def _ask(self, assessment: Assessment, own: Place, signals: Signals, beat: Beat) -> Answer | Fallback:
        if (closed := self.guard.closed()) is not None:
            return closed
        begun_s = self.guard.timer()
        try:
            question = self._chooser.codec.question(assessment, own, signals, beat)
            answered = self._answer(question)
        except Exception:
            # Whatever is wrong with a policy, requests are served.
            logger.exception("policy %s failed on a request, the heuristic decides; see the traceback", self._title)
            return Fallback.FAILED
        rows = len(question.places)
        # The first answer on that many pairs prepares what later ones reuse.
        late = self.guard.took(self.guard.timer() - begun_s) if rows in self._prepared else None
        self._prepared.add(rows)
        if late is not None or isinstance(answered, Fallback):
            return late or answered
        cost_s = assessment.view.forecast.cost_s
        return self.guard.costs(cost_s.item(answered.place), cost_s.item(own)) or answered

    def _answer(self, question: Question) -> Answer | Fallback:
        observation = question.observation
        rows = observation["pairs"][: len(question.places)]
        if not self.guard.envelope.holds(pairs=rows, request=observation["request"], context=observation["context"]):
            return Fallback.OUTSIDE
        return self._chooser.choose(question) or Fallback.NOT_FINITE

    def _follow(self, assessment: Assessment, own: Place, answer: Answer) -> Decision:
        if answer.place == own:
            reason = f"policy {self._title}: as FlowGuard"
        else:
            reason = f"policy {self._title}: {_instead(assessment, own, answer)}"
        decision = self._flowguard.choose(assessment, answer.place, self.name, reason)
        return decision if answer.max_depth is None else replace(decision, max_depth=answer.max_depth)

    def _shadowed(self, assessment: Assessment, own: Place, answer: Answer) -> str:
        cost_s = assessment.view.forecast.cost_s
        self._tally.shadow_gain_s += cost_s.item(own) - cost_s.item(answer.place)
        cap = "" if answer.max_depth is None else f", depth at most {answer.max_depth}"
        if answer.place == own:
            return f"policy {self._title} would do the same{cap}"
        return (
            f"policy {self._title} would take {_named(assessment, answer.place)}{cap}, {_gain(assessment, own, answer)}"
        )

    def _note(self, request: Request, learned: bool, assessment: Assessment) -> None:
        self._trials[request.id] = _Trial(learned, assessment.view.forecast.expected_tokens)
        self._trials.move_to_end(request.id)
        if len(self._trials) > MOST_PENDING:
            self._trials.popitem(last=False)


def _instead(assessment: Assessment, own: Place, answer: Answer) -> str:
    return f"instead of {_named(assessment, own)}, {_gain(assessment, own, answer)}"


def _named(assessment: Assessment, place: Place) -> str:
    view = assessment.view
    lanes = view.lanes.lanes
    return f"{lanes[int(view.block.prefill[place[0]])]} -> {lanes[int(view.block.decode[place[1]])]}"


def _gain(assessment: Assessment, own: Place, answer: Answer) -> str:
    cost_s = assessment.view.forecast.cost_s
    return f"predicted gain {cost_s.item(own) - cost_s.item(answer.place):.2g} s"
