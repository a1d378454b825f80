"""Seat: the one place at a server that an agent of another process can take, and what it is told there."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from streamserve.clock import now
from streamserve.config import Config
from streamserve.errors import ConfigError, PolicyError
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.metrics.policy import PolicyTally
from streamserve.policy import interface
from streamserve.policy.agent import Agent
from streamserve.policy.codec import Codec
from streamserve.policy.rhythm import Rhythm
from streamserve.policy.wire import FORMAT, Arrived, Began, Ended, Hello, Told
from streamserve.types import Request, Result, Slo


class Occupied(PolicyError):
    """Another agent is there."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an agent asks for when it comes.

    schema: of its codec, "" = it only looks and is told, and decides nothing.
    """

    format: int = FORMAT
    schema: str = ""
    most_pairs: int = 1
    depth_caps: tuple[int | None, ...] = (None,)
    budget_s: float = 0.1


class Seat:
    """Keeps who is in the system, so that whoever takes the seat can be told."""

    def __init__(self, config: Config, flowguard: FlowGuard, rhythm: Rhythm, tally: PolicyTally) -> None:
        self._config = config
        self._flowguard = flowguard
        self._rhythm = rhythm
        self._tally = tally
        self._slo = Slo(config.slo.ttft_s, config.slo.tpot_s)
        self._open: dict[str, list[Arrived | Began]] = {}
        self._send: Callable[[Told], None] | None = None
        self.agent: Agent | None = None
        """Who decides, if anybody."""

    @property
    def taken(self) -> bool:
        return self._send is not None

    def take(self, wish: Wish, send: Callable[[Told], None], look: Callable[[], None]) -> None:
        """Sit down: `send` is told at once who is in the system, and from then on everything.

        Raises `Occupied`, and `PolicyError` on a wish that cannot be met.
        """
        agent = self._agent(wish)
        if self.taken:
            raise Occupied("another agent is attached to this server: only one can be at a time")
        lanes = [lane.id for lane in self._config.lanes]
        send(Hello(now(), lanes, list(self._config.stream_pairs())))
        for messages in self._open.values():
            for message in messages:
                send(message)
        self._send, self.agent = send, agent
        if agent is not None:
            agent.attach(send, look)

    def leave(self, send: Callable[[Told], None] | None = None) -> None:
        """Whoever decided before does so again, at once; idempotent.

        send: what the agent that leaves came with; nothing happens if another has come since. None = whoever it is.
        """
        if send is not None and send != self._send:
            return
        agent, self.agent, self._send = self.agent, None, None
        if agent is not None:
            agent.leave()

    def arrived(self, request: Request) -> None:
        """A request is in the system from now on, until `ended`."""
        arrived = Arrived(request.id, request.arrived_s, request.max_tokens, request.slo.over(self._slo))
        self._open[request.id] = [arrived]
        if self.agent is not None:
            self.agent.arrived(request.id)
        self._tell(arrived)

    def began(self, request_id: str, at_s: float) -> None:
        """A request has its first token; does nothing when it has ended."""
        if request_id in self._open:
            began = Began(request_id, at_s)
            self._open[request_id].append(began)
            self._tell(began)

    def ended(self, result: Result) -> None:
        """A request ended; does nothing when it never arrived."""
        if self._open.pop(result.request_id, None) is None:
            return
        if self.agent is not None:
            self.agent.ended(result.request_id)
        decision = result.decision
        self._tell(Ended(replace(result, decision=decision and replace(decision, candidates=(), scores={}))))

    def _tell(self, message: Told) -> None:
        if self._send is not None:
            self._send(message)

    def _agent(self, wish: Wish) -> Agent | None:
        if wish.format != FORMAT:
            raise PolicyError(f"the agent speaks format {wish.format}, this server {FORMAT}: use the same version")
        if not wish.schema:
            return None
        most_s = self._config.policy.remote_budget_s
        if not 0 < wish.budget_s <= most_s:
            raise PolicyError(
                f"budget_s must be above 0 and at most {most_s:g} (policy.remote_budget_s), got {wish.budget_s:g}"
            )
        if wish.most_pairs > interface.MOST_ROWS or len(wish.depth_caps) > interface.MOST_CHOICES:
            raise PolicyError(f"most_pairs is at most {interface.MOST_ROWS}, depth_caps {interface.MOST_CHOICES}")
        try:
            codec = Codec(wish.most_pairs, wish.depth_caps)
        except ConfigError as error:
            raise PolicyError(str(error)) from error
        if codec.schema_hash() != wish.schema:
            raise PolicyError("the agent was made for other observations than this server makes: use the same version")
        most_queued = self._config.scheduler.max_queued // 2
        return Agent(self._flowguard, codec, wish.budget_s, self._rhythm, self._tally, most_queued)
