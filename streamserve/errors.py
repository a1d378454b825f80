"""Every error that StreamServe raises on purpose, in one tree; each message says what to do.

StreamServeError
├── ConfigError            the configuration cannot work (unknown key, impossible topology, ...)
├── SetupError             this machine cannot run it (vLLM's version, memory, a port in use, a model not found)
├── LaneStartError         a lane's engine did not come up
├── PolicyError            a trained policy cannot be used (missing, damaged, made for something else)
└── ServeError             one request could not be served; has an HTTP status
    ├── Overloaded  429    the queue is full
    ├── NoLane      503    no lane is ready
    ├── LaneLost    503    the lane died under the request
    ├── Stopping    503    the server is shutting down
    ├── UnknownLane 404    no lane has that id
    └── NotSpeculating 409 the lane drafts nothing, so it has no depth to control

`Undecided` is no error and stands beside it.
"""

from http import HTTPStatus

from streamserve.types import LaneId


def one_line(error: BaseException) -> str:
    """Another library's error, its kind and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


class StreamServeError(Exception):
    """Base of the tree."""


class ConfigError(StreamServeError):
    """The configuration cannot work."""


class SetupError(StreamServeError):
    """This machine cannot run what was asked for."""


class LaneStartError(StreamServeError):
    """A lane's engine did not come up."""


class PolicyError(StreamServeError):
    """A trained policy cannot be used: it is missing, damaged, or made for something else."""


class ServeError(StreamServeError):
    """One request could not be served."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR


class Overloaded(ServeError):
    """The admission queue is full."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class NoLane(ServeError):
    """No lane is ready to take the request."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class LaneLost(ServeError):
    """The lane died under the request.

    lane: which one, where that is known. given_up: whether the request has had all its attempts.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, message: str, *, lane: LaneId | None = None, given_up: bool = False) -> None:
        super().__init__(message)
        self.lane = lane
        self.given_up = given_up


class Stopping(ServeError):
    """The server is shutting down."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class UnknownLane(ServeError):
    """No lane has that id."""

    status = HTTPStatus.NOT_FOUND


class NotSpeculating(ServeError):
    """The lane drafts nothing, so it has no depth to control."""

    status = HTTPStatus.CONFLICT


class Undecided(Exception):
    """A router's answer comes later: whoever gives it calls `StreamScheduler.look`, which asks the router again.

    How an environment, whose agent acts outside of the event loop, is a router like any other.
    """
