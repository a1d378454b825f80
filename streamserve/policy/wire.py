"""Wire: what a server and an agent in another process tell each other; MessagePack, several messages to a frame.

All instants are seconds of the server's clock.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from streamserve.errors import PolicyError
from streamserve.flowguard.assessment import Place
from streamserve.policy.codec import Codec
from streamserve.policy.question import Question, Shown
from streamserve.signals import Signals
from streamserve.types import LaneId, Result, Slo

FORMAT = 1
"""Of all messages; an agent names it when it comes."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first message: where the agent is."""

    at_s: float
    lanes: list[LaneId]
    pairs: list[tuple[LaneId, LaneId]]


class Arrived(msgspec.Struct, frozen=True, tag=True):
    """A request came; after `Hello` also those that are in the system already."""

    request_id: str
    at_s: float
    max_tokens: int
    slo: Slo
    """What it is held to."""


class Began(msgspec.Struct, frozen=True, tag=True):
    """A request has its first token."""

    request_id: str
    at_s: float


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A request ended, well or not; its decision comes without candidates and scores."""

    result: Result


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A decision that waits for its `Reply`."""

    number: int
    observation: dict[str, bytes]
    """Array -> its float32 numbers, in the shapes of the codec."""
    places: list[Place]
    heuristic: int
    rows: bytes
    depths: bytes
    signals: Signals

    @classmethod
    def of(cls, number: int, question: Question, signals: Signals) -> "Ask":
        """A question as it is sent."""
        observation = {array: np.asarray(values, "<f4").tobytes() for array, values in question.observation.items()}
        rows, depths = question.rows.tobytes(), question.depths.tobytes()
        return cls(number, observation, list(question.places), question.heuristic, rows, depths, signals)

    def shown(self, codec: Codec) -> Shown:
        """As the codec that it was made with has it. Raises `PolicyError`."""
        shapes = codec.shapes()
        try:
            observation = {
                array: np.frombuffer(values, "<f4").astype(np.float32).reshape(shapes[array])
                for array, values in self.observation.items()
            }
            rows = np.frombuffer(self.rows, bool)
            depths = np.frombuffer(self.depths, bool).reshape(codec.most_pairs, len(codec.depth_caps))
        except (KeyError, ValueError) as error:
            raise PolicyError(f"the server sent another observation than was agreed on ({error})") from error
        return Shown(observation, tuple(self.places), self.heuristic, rows, depths)


class Over(msgspec.Struct, frozen=True, tag=True):
    """The decision was taken without the agent, or need not be taken any more; a `Reply` is still waited for."""

    number: int


class Seen(msgspec.Struct, frozen=True, tag=True):
    """The answer to a `Look`."""

    signals: Signals


class Reply(msgspec.Struct, frozen=True, tag=True):
    """The agent's answer to an `Ask`: a row of the observation, and the index of a depth cap."""

    number: int
    row: int
    cap: int = 0


class Look(msgspec.Struct, frozen=True, tag=True):
    """The agent wants to see the signals."""


Told = Hello | Arrived | Began | Ended | Ask | Over | Seen
Said = Reply | Look


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be sent")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_told = msgspec.msgpack.Decoder(list[Told])
_said: msgspec.msgpack.Decoder[Said] = msgspec.msgpack.Decoder(Said)


def frame(messages: Sequence[Told]) -> bytes:
    """The server's messages as one frame."""
    return _encoder.encode(messages)


def told(frame: bytes) -> list[Told]:
    """A frame of the server's. Raises `PolicyError`."""
    try:
        return _told.decode(frame)
    except msgspec.MsgspecError as error:
        raise PolicyError(f"the server sent what this version does not know ({error}): use the same version") from error


def say(message: Said) -> bytes:
    """The agent's message as a frame."""
    return _encoder.encode(message)


def said(frame: bytes) -> Said:
    """A frame of the agent's. Raises `PolicyError`."""
    try:
        return _said.decode(frame)
    except msgspec.MsgspecError as error:
        raise PolicyError(f"the agent sent what this version does not know ({error}): use the same version") from error
