"""Talk: the thread of an agent and the thread of a plant, which speak in turn.

A plant's event loop has a thread of its own. The simulated plant's stands still while the agent thinks, in the middle
of the router's decision, so that an episode is what it would be with a router that decides by itself, to the order of
events at one instant; and an environment works where a loop is running already, as in a notebook.
"""

from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from envs.reward import Cost

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class End:
    """The plant has nothing more to ask."""

    at_s: float
    cost: Cost
    """Since the last question."""
    reason: str | None = None
    """Why it was cut off; None = all requests have ended."""
    expected_missed: float = 0.0
    """Deadlines, by the requests that are left."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The plant's side raised what it should not."""

    error: BaseException


class Abandoned(Exception):
    """The agent has gone; nobody will answer."""


class Talk(Generic[Q, A]):
    """Questions one way, answers the other."""

    def __init__(self) -> None:
        self._questions: SimpleQueue[Q | End | Broken] = SimpleQueue()
        self._answers: SimpleQueue[tuple[A] | None] = SimpleQueue()

    def post(self, message: Q | End | Broken) -> None:
        """The plant's: say it and go on."""
        self._questions.put(message)

    def ask(self, question: Q) -> A:
        """The plant's: the answer; until then its thread stands still. Raises `Abandoned`."""
        self._questions.put(question)
        answer = self._answers.get()
        if answer is None:
            self._answers.put(None)
            raise Abandoned
        return answer[0]

    def next(self, within_s: float | None = None) -> Q | End:
        """The agent's: wait for the next question. Raises `TimeoutError`, and whatever broke the plant."""
        try:
            message = self._questions.get(timeout=within_s)
        except Empty as error:
            raise TimeoutError(f"the plant asked nothing for {within_s:g} s") from error
        if isinstance(message, Broken):
            raise message.error
        return message

    def answer(self, answer: A) -> None:
        """The agent's, to `ask`."""
        self._answers.put((answer,))

    def abandon(self) -> None:
        """The agent's: whoever asks from now on is told that nobody answers."""
        self._answers.put(None)
