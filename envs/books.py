"""Books: what an agent knows of the requests at a server, from what the server tells."""

import re

from envs.link import Answered, Message, Sent
from envs.reward import Ledger
from streamserve.policy.wire import Arrived, Began, Ended
from streamserve.types import Finish, Request, Result


class Books:
    """The ledger of all requests, the results of the episode, and which of the agent's own are still on their way.

    The ledger goes on from episode to episode: requests of real traffic outlast them.
    """

    def __init__(self, at_s: float) -> None:
        self.ledger = Ledger(at_s)
        self.results: list[Result] = []
        self._own: re.Pattern[str] | None = None
        self._sent: int | None = None
        self._seen: set[int] = set()
        self._over: set[int] = set()
        self._refused: set[int] = set()

    def begin(self, marker: str | None) -> None:
        """A new episode. marker: of its own requests, None = it has none."""
        self.results = []
        self._own = None if marker is None else re.compile(rf"{re.escape(marker)}\.(\d+)(?!\d)")
        self._sent = None
        self._seen, self._over, self._refused = set(), set(), set()

    @property
    def left(self) -> int | None:
        """Own requests that have not ended, None while more are sent."""
        return None if self._sent is None else self._sent - len(self._over)

    def note(self, message: Message) -> None:
        """Keep what it tells."""
        match message:
            case Arrived() if self._number(message.request_id) not in self._refused:
                request = Request(message.request_id, (), message.max_tokens, message.at_s)
                self.ledger.arrived(request, message.slo)
                self._add(self._seen, message.request_id)
            case Began():
                self.ledger.first_token(message.request_id, message.at_s)
            case Ended() if self._number(message.result.request_id) not in self._refused:
                self.ledger.ended(message.result)
                self.results.append(message.result)
                self._add(self._over, message.result.request_id)
            case Sent():
                self._sent = message.requests
            case Answered():
                if message.error is not None and message.number not in self._seen:
                    self._refuse(message.number, message.error)

    def _number(self, request_id: str) -> int | None:
        """Of an own request."""
        found = None if self._own is None else self._own.search(request_id)
        return None if found is None else int(found[1])

    def _add(self, numbers: set[int], request_id: str) -> None:
        if (number := self._number(request_id)) is not None:
            numbers.add(number)

    def _refuse(self, number: int, error: str) -> None:
        """A request that the server tells of later than its client, or never, counts as one that failed at once."""
        at_s = self.ledger.at_s
        request = Request(f"refused.{number}", (), 1, at_s)
        self.ledger.arrived(request, request.slo)
        failed = Result(request.id, None, 0, 0, at_s, at_s, Finish.ERROR, error=error)
        self.ledger.ended(failed)
        self.results.append(failed)
        self._refused.add(number)
        self._over.add(number)
