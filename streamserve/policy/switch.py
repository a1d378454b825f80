"""PolicySwitch: the router of a server, with the trained policy on top that can be exchanged between two decisions."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamserve.config import Config
from streamserve.errors import ConfigError, PolicyError
from streamserve.flowguard import routers
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.metrics.policy import PolicyTally
from streamserve.policy import kernels, mode, selection, store
from streamserve.policy.guard import Guard
from streamserve.policy.learned import LearnedRouter
from streamserve.policy.mode import Mode, Way
from streamserve.policy.rhythm import Rhythm
from streamserve.policy.seat import Seat
from streamserve.policy.spec import Controllable, SpecController
from streamserve.policy.store import Policy
from streamserve.signals import Signals
from streamserve.types import Decision, Request, Result

logger = logging.getLogger(__name__)

HEURISTIC, AUTO = "heuristic", "auto"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for and what came of it: `policy` is None where the heuristic serves alone."""

    asked: str
    mode: Mode
    policy: Policy | None
    reason: str
    """Why, in one line."""


class PolicySwitch:
    """A `Router` that outlives policies: FlowGuard keeps what it has learned when they change.

    folder: of the shipped policies. Raises `ConfigError` on a router or a mode that cannot be; a policy that cannot be
    used is no error here, the heuristic serves and the report says why.
    """

    def __init__(self, config: Config, folder: Path | None = None) -> None:
        self.tally = PolicyTally()
        self._config = config
        self._folder = folder
        self._heuristic = routers.build(config.router, config.stream_pairs(), config.flowguard)
        if isinstance(self._heuristic, FlowGuard):
            # Now, and not when the first policy or agent comes: then streams would wait for the compiler.
            kernels.prepare()
        self._rhythm = Rhythm()
        self._current: LearnedRouter | None = None
        self._controller: SpecController | None = None
        self._lanes: Controllable | None = None
        self._refused: str | None = None
        self.seat: Seat | None = self._seat() if config.policy.remote else None
        """For an agent of another process, whose decisions come before the policy's."""
        self._use(self._first(config.policy.source, mode.parse(config.policy.mode)))

    def route(self, request: Request, signals: Signals) -> Decision:
        """Raises `NoLane`, and `Undecided` while an agent may still answer."""
        if self.seat is not None and self.seat.agent is not None:
            return self.seat.agent.route(request, signals)
        if self._current is not None:
            return self._current.route(request, signals)
        self._rhythm.beat(signals.at_s)
        decision = self._heuristic.route(request, signals)
        self.tally.decided(Way.HEURISTIC, by_policy=False)
        return decision

    def learn(self, result: Result) -> None:
        """Whoever decides now learns, whoever decided then."""
        try:
            (self._current or self._heuristic).learn(result)
        finally:
            if self.seat is not None:
                self.seat.ended(result)

    def read(self, source: str, wanted: Mode) -> Choice:
        """Look for a policy; reads files, changes nothing. Raises `PolicyError`, with nothing changed either."""
        if source == HEURISTIC or wanted.way is Way.HEURISTIC:
            return Choice(source, Mode(Way.HEURISTIC), None, "as asked")
        if not isinstance(self._heuristic, FlowGuard):
            if source == AUTO:
                return Choice(source, wanted, None, f"a policy corrects flowguard, the router is {self._config.router}")
            raise PolicyError(f"a policy corrects flowguard, the router is {self._config.router}: set router=flowguard")
        if source == AUTO:
            return self._proven(wanted)
        policy = store.load(store.find(source, self._folder))
        lanes, pairs = len(self._config.lanes), len(self._config.stream_pairs())
        doubt = (
            "" if policy.card.made_for(lanes, pairs) else f", though not trained for {lanes} lanes and {pairs} pairs"
        )
        return Choice(source, wanted, policy, f"as asked{doubt}")

    def use(self, choice: Choice) -> None:
        """From now on decide by this; requests on their way are not touched. To be called on the serving loop."""
        self._use(choice)
        self._refused = None

    def start(self, lanes: Controllable) -> None:
        """The lanes are up: a policy for their depth may control them."""
        self._lanes = lanes
        if self._controller is not None:
            self._controller.start(lanes)

    async def aclose(self) -> None:
        """Control no lane any more; idempotent."""
        self._lanes = None
        if self.seat is not None:
            self.seat.leave()
        if self._controller is not None:
            await self._controller.aclose()

    def report(self) -> dict[str, Any]:
        """What decides and why, in plain values."""
        choice, tally = self._choice, self.tally
        report: dict[str, Any] = {
            "source": HEURISTIC if choice.policy is None else choice.policy.card.name,
            "mode": str(choice.mode) if choice.policy else HEURISTIC,
            "asked": choice.asked,
            "reason": choice.reason,
            "refused": self._refused,
            "decisions": sum(count for (_, by), count in tally.decisions.items() if by == "policy"),
            "fallbacks": {str(reason): count for reason, count in tally.fallbacks.items()},
            "agreement": tally.agreed / tally.asked if tally.asked else None,
        }
        if self.seat is not None and self.seat.agent is not None:
            report["agent"] = {"budget_s": self.seat.agent.budget_s, "decisions": self.seat.agent.decisions}
        if choice.policy is not None:
            report["kind"] = choice.policy.card.kind
        if self._current is not None and (verdict := self._current.guard.verdict) is not None:
            report["turned_off"] = (
                f"its requests took {verdict.learned_s:.3g} s per token, the heuristic's {verdict.heuristic_s:.3g} s"
            )
        return report

    def _seat(self) -> Seat:
        if not isinstance(self._heuristic, FlowGuard):
            raise ConfigError(
                f"policy.remote: an agent sees what flowguard sees, the router is {self._config.router}: "
                "set router=flowguard"
            )
        return Seat(self._config, self._heuristic, self._rhythm, self.tally)

    def _first(self, source: str, wanted: Mode) -> Choice:
        try:
            choice = self.read(source, wanted)
        except PolicyError as error:
            self._refused = str(error)
            logger.error("%s; the heuristic serves", error)
            return Choice(source, wanted, None, "the policy that was asked for cannot be used")
        if source != HEURISTIC:
            name = choice.policy.card.name if choice.policy else HEURISTIC
            logger.info("policy %s (%s): %s", name, choice.mode if choice.policy else source, choice.reason)
        return choice

    def _proven(self, wanted: Mode) -> Choice:
        policies = []
        for folder in store.shipped(self._folder):
            try:
                policies.append(store.load(folder))
            except PolicyError as error:
                logger.warning("%s; auto passes it over", error)
        chosen, reason = selection.best([policy.card for policy in policies], self._config)
        policy = next((policy for policy in policies if policy.card is chosen), None)
        return Choice(AUTO, wanted, policy, reason)

    def _use(self, choice: Choice) -> None:
        config, current, controller = self._config.policy, None, None
        if choice.policy is not None and choice.policy.card.kind == "spec":
            controller = SpecController(choice.policy, choice.mode, config, self._rhythm, self.tally)
        elif choice.policy is not None and isinstance(self._heuristic, FlowGuard):
            guard = Guard(config, choice.policy.card.envelope)
            current = LearnedRouter(self._heuristic, choice.policy, choice.mode, guard, self._rhythm, self.tally)
        if self._controller is not None:
            self._controller.stop()
        self._choice, self._current, self._controller = choice, current, controller
        if controller is not None and self._lanes is not None:
            controller.start(self._lanes)
