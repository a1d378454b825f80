"""Parts of an agent on a server that runs: as its router, or at control ticks."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from envs.link import Gone, Message
from envs.parts import TTL_TICKS, Controls, Part, Routing, Ticked, Ticking
from envs.remote import RemoteStage
from envs.reward import Cost, Ledger
from envs.running import Remote
from envs.scenario import Scenario
from envs.settings import Settings
from streamserve.policy.codec import Codec
from streamserve.policy.question import Answer, Shown
from streamserve.policy.wire import FORMAT, Ask, Look, Over, Reply, Seen
from streamserve.signals import Signals


@dataclass(frozen=True, slots=True, eq=False)
class RemoteAsked:
    """One decision of the server that waits for its answer."""

    number: int
    question: Shown
    signals: Signals
    cost: Cost
    """Since the decision before."""
    expected_missed: float = 0.0
    """The server does not tell what it predicts."""


class RemoteRouting(RemoteStage):
    """The agent is the server's router."""

    def __init__(self, remote: Remote, codec: Codec) -> None:
        super().__init__(remote)
        self._codec = codec
        self._ask: Ask | None = None
        """The last one, until it is answered."""
        self._over = False
        """Whether it was taken without the agent."""
        self._late = 0

    def begin(self, scenario: Scenario, settings: Settings) -> None:
        super().begin(scenario, settings)
        self._late = 0

    def answer(self, asked: RemoteAsked, answer: Answer) -> None:
        self._catch_up()
        current = self._ask is not None and self._ask.number == asked.number
        self._late += not current or self._over
        if current:
            row = asked.question.places.index(answer.place)
            self._reply(row, self._codec.depth_caps.index(answer.max_depth))

    def notes(self) -> dict[str, Any]:
        """late: answers of the episode that came when the server had decided by itself."""
        return {"late": self._late}

    def _wish(self) -> dict[str, Any]:
        self._ask, self._over = None, False
        return {
            "format": FORMAT,
            "schema": self._codec.schema_hash(),
            "most_pairs": self._codec.most_pairs,
            "depth_caps": json.dumps(self._codec.depth_caps),
            "budget_s": self._remote.budget_s,
        }

    def _question(self) -> RemoteAsked | None:
        if self._over:
            # It must be answered all the same: the server asks on only then.
            self._pass()
        ask = self._ask
        if ask is None:
            return None
        cost = self._settle(ask.signals.at_s)
        return RemoteAsked(ask.number, ask.shown(self._codec), ask.signals, cost)

    def _pass(self) -> None:
        if self._ask is not None:
            self._reply(self._ask.heuristic, 0)

    def _kept(self, message: Message) -> None:
        if isinstance(message, Ask):
            self._ask, self._over = message, False
        elif isinstance(message, Over) and self._ask is not None and message.number == self._ask.number:
            self._over = True
        elif isinstance(message, Gone):
            self._ask = None

    def _reply(self, row: int, cap: int) -> None:
        if self._ask is not None and self._link is not None:
            self._link.say(Reply(self._ask.number, row, cap))
        self._ask, self._over = None, False


class RemoteTicking(RemoteStage):
    """The agent sets the depth controls of the server's lanes, tick by tick; the server routes as it does."""

    def __init__(self, remote: Remote, part: Ticking) -> None:
        super().__init__(remote)
        self._part = part
        self._look: Callable[[Signals], Ticked]
        self._looked_at: Ledger | None = None
        self._due: float | None = None
        self._asked = False
        self._seen: Signals | None = None

    def begin(self, scenario: Scenario, settings: Settings) -> None:
        super().begin(scenario, settings)
        if self._looked_at is not self._books.ledger:
            self._looked_at = self._books.ledger
            self._look = self._part.looking(self._books.ledger)
        self._due, self._asked, self._seen = time.monotonic(), False, None

    def answer(self, asked: Ticked, answer: Controls) -> None:
        if self._link is not None:
            controls = {lane: self._part.codec.controls[index] for lane, index in answer.items()}
            self._link.control(controls, TTL_TICKS * self._part.tick_s)
        self._due = time.monotonic() + self._part.tick_s

    def _wish(self) -> dict[str, Any]:
        return {"format": FORMAT}

    def _due_s(self) -> float | None:
        return self._due

    def _question(self) -> Ticked | None:
        if self._seen is not None:
            seen, self._seen, self._asked = self._seen, None, False
            ticked = self._look(seen)
            # Of what came before the episode.
            fresh, self._fresh = self._fresh, False
            return replace(ticked, cost=Cost()) if fresh else ticked
        if not self._asked and self._due is not None and time.monotonic() >= self._due and self._link is not None:
            self._link.say(Look())
            self._asked, self._due = True, None
        return None

    def _kept(self, message: Message) -> None:
        if isinstance(message, Seen) and self._asked:
            self._seen = message.signals

    def _pass(self) -> None:
        """Nothing is asked between ticks."""


def stage(remote: Remote, part: Part) -> RemoteStage:
    """Where an agent with this part acts."""
    if isinstance(part, Routing):
        return RemoteRouting(remote, part.codec)
    assert isinstance(part, Ticking)
    return RemoteTicking(remote, part)
