"""Remote: episodes on a server that another process runs, under its own traffic or under one that is sent to it."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from envs.books import Books
from envs.link import Gone, Link, Message
from envs.reward import Cost
from envs.running import Remote
from envs.scenario import Scenario
from envs.settings import Settings
from envs.talk import End
from streamserve.config import LaneConfig
from streamserve.errors import LaneLost, SetupError
from streamserve.policy.wire import Hello
from streamserve.types import Result


class RemoteStage(ABC):
    """Connected from the first episode to `close`; an episode after the server had gone connects anew.

    With traffic of its own an episode begins when the server is idle, else at the next decision.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._link: Link | None = None
        self._books = Books(0.0)
        self._hello: Hello
        self._gone = Gone("closed")
        self._drain_by_s: float | None = None
        self._drain_limit_s = 0.0
        self._fresh = True
        """Whether the costs so far are of the time before the episode."""

    def known(self, settings: Settings) -> Settings:
        """With the lanes and pairs that the server has. Raises `ConfigError` and `SetupError`."""
        self._catch_up()
        if self._link is None:
            self._link = Link(self._remote, self._wish())
            hello = self._hear(self._remote.decision_limit_s)
            if not isinstance(hello, Hello):
                self._hang_up()
                why = hello.reason if isinstance(hello, Gone) else "it runs another version"
                raise SetupError(f"{self._remote.url} did not say hello ({why}); look into its log")
            self._hello = hello
            self._books = Books(hello.at_s)
        lanes = [LaneConfig(lane) for lane in self._hello.lanes]
        config = msgspec.structs.replace(settings.config, lanes=lanes, pairs=list(self._hello.pairs))
        return replace(settings, config=config)

    def begin(self, scenario: Scenario, settings: Settings) -> None:
        """Raises `LaneLost` when the server does not become idle though it should."""
        assert self._link is not None, "known comes first"
        self.end()
        marker = f"agent-{uuid.uuid4().hex[:12]}" if settings.drive else None
        self._fresh = not settings.drive
        self._drain_by_s, self._drain_limit_s = None, settings.drain_limit_s
        if marker is not None and self._link is not None:
            self._wait_idle()
        self._books.begin(marker)
        if marker is not None and self._link is not None:
            planned = scenario.traffic.planned(settings.requests if settings.drain else None)
            self._link.drive(planned, marker, settings.drain_limit_s)

    def next(self) -> Any:
        """The next question, or an `End`. Raises `TimeoutError`."""
        until_s = time.monotonic() + self._remote.decision_limit_s
        while True:
            if (question := self._question()) is not None:
                return question
            if self._books.left == 0:
                return self._end(None)
            # Once all requests are sent there may be nothing to decide until they have ended.
            latest_s = until_s if self._drain_by_s is None else self._drain_by_s
            due_s = self._due_s()
            try:
                message = self._hear((latest_s if due_s is None else min(latest_s, due_s)) - time.monotonic())
            except TimeoutError:
                if time.monotonic() < latest_s:
                    continue
                if self._drain_by_s is None:
                    raise TimeoutError(self._silence()) from None
                left, limit_s = self._books.left, self._drain_limit_s
                return self._end(f"{left} requests had not ended {limit_s:g} s after the last arrival")
            if isinstance(message, Gone):
                return self._end(f"the server at {self._remote.url} has gone: {message.reason}")
            if self._drain_by_s is None and self._books.left is not None:
                self._drain_by_s = time.monotonic() + self._drain_limit_s

    @abstractmethod
    def answer(self, asked: Any, answer: Any) -> None:
        """The agent's answer to what `next` gave."""

    def results(self) -> Sequence[Result]:
        """Of all requests that ended in the episode, whoever sent them."""
        return tuple(self._books.results)

    def notes(self) -> dict[str, Any]:
        """For `info`."""
        return {}

    def end(self) -> None:
        """Stop what is sent to the server; the connection stays."""
        if self._link is not None:
            self._link.stop_driving()

    def close(self) -> None:
        """Hang up; idempotent."""
        self._hang_up()

    @abstractmethod
    def _wish(self) -> dict[str, Any]:
        """What the server is asked for."""

    @abstractmethod
    def _question(self) -> Any:
        """What the agent is to be asked now, if anything."""

    def _due_s(self) -> float | None:
        """When `_question` is to be looked at even if nothing is heard, on Python's monotonic clock."""
        return None

    @abstractmethod
    def _kept(self, message: Message) -> None:
        """Something was heard that is not for the books."""

    @abstractmethod
    def _pass(self) -> None:
        """Between two episodes: what is asked is left to FlowGuard."""

    def _hear(self, within_s: float) -> Message:
        """The next message, noted. Raises `TimeoutError`."""
        if self._link is None:
            return self._gone
        message = self._link.next(within_s)
        if isinstance(message, Gone):
            self._gone = message
            self._hang_up()
        self._books.note(message)
        self._kept(message)
        return message

    def _catch_up(self) -> None:
        """Hear what was said since, without waiting."""
        while True:
            try:
                if isinstance(self._hear(0.0), Gone):
                    return
            except TimeoutError:
                return

    def _wait_idle(self) -> None:
        until_s = time.monotonic() + self._remote.idle_limit_s
        while self._books.ledger.in_system:
            self._pass()
            try:
                message = self._hear(until_s - time.monotonic())
            except TimeoutError:
                busy = f"{self._books.ledger.in_system} requests are in the system"
                raise LaneLost(
                    f"{self._remote.url} is not idle within {self._remote.idle_limit_s:g} s: {busy}; "
                    "let nobody else use it, or do without drive"
                ) from None
            if isinstance(message, Gone):
                return
        self._books.ledger.settle(self._books.ledger.at_s)

    def _settle(self, at_s: float) -> Cost:
        cost = self._books.ledger.settle(at_s)
        fresh, self._fresh = self._fresh, False
        return Cost() if fresh else cost

    def _end(self, reason: str | None) -> End:
        ledger = self._books.ledger
        at_s = max([ledger.at_s, *(result.finished_s for result in self._books.results)])
        return End(at_s, self._settle(at_s), reason)

    def _silence(self) -> str:
        return f"no request came to {self._remote.url} for {self._remote.decision_limit_s:g} s; set drive to send some"

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
