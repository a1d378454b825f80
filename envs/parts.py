"""Parts: where in a plant the agent comes in, as its router or at its control ticks."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from envs.asking import Asked, AskingRouter, Inquiry, WaitingRouter
from envs.reward import Cost, Ledger
from envs.session import Tick
from envs.talk import Abandoned, Talk
from streamserve.config import Config
from streamserve.errors import LaneLost, NotSpeculating
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.policy.codec import Codec
from streamserve.policy.columns import Observed
from streamserve.policy.lane_codec import LaneCodec
from streamserve.policy.question import Answer, Mask
from streamserve.policy.rhythm import Rhythm
from streamserve.protocols import Router
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.signals import Signals
from streamserve.types import LaneId

Controls = Mapping[LaneId, int]
TTL_TICKS = 3.0
"""A control outlives this many ticks, then the lane goes back to its default."""


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """What the plant runs with, on behalf of the agent."""

    router: Router | None
    """None = the configured one."""
    tick: Tick | None
    deliver: Callable[[Any, Any, StreamScheduler], None]
    """Live plants: the answer to a question, in the event loop's thread."""


class Part(Protocol):
    """How an agent takes part in one episode."""

    def waiting(self, config: Config, ledger: Ledger, talk: Talk[Any, Any], give_up: Callable[[], None]) -> Asking:
        """The plant stands still while the agent thinks; `give_up` is called when nobody answers any more."""
        ...

    def posting(self, config: Config, ledger: Ledger, talk: Talk[Any, Any]) -> Asking:
        """The plant goes on meanwhile."""
        ...


class Routing:
    """The agent is the router."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def waiting(self, config: Config, ledger: Ledger, talk: Talk[Asked, Answer], give_up: Callable[[], None]) -> Asking:
        router = WaitingRouter(self._inquiry(config, ledger), talk.ask, give_up)
        return Asking(router, None, lambda _asked, _answer, _scheduler: None)

    def posting(self, config: Config, ledger: Ledger, talk: Talk[Asked, Answer]) -> Asking:
        router = AskingRouter(self._inquiry(config, ledger), talk.post)

        def deliver(asked: Asked, answer: Answer, scheduler: StreamScheduler) -> None:
            router.answer(asked, answer)
            scheduler.look()

        return Asking(router, None, deliver)

    def _inquiry(self, config: Config, ledger: Ledger) -> Inquiry:
        return Inquiry(FlowGuard(config.stream_pairs(), config.flowguard), self.codec, ledger)


@dataclass(frozen=True, slots=True, eq=False)
class Ticked:
    """One control tick that waits for its answer."""

    signals: Signals
    observation: Mapping[str, Observed]
    mask: Mask
    cost: Cost
    """Since the tick before."""
    expected_missed: float = 0.0
    """Nothing is expected of requests that the agent does not route."""


class Ticking:
    """The agent sets the lanes' depth controls, tick by tick; requests are routed as configured."""

    def __init__(self, codec: LaneCodec, tick_s: float) -> None:
        self.codec = codec
        self.tick_s = tick_s

    def waiting(
        self, config: Config, ledger: Ledger, talk: Talk[Ticked, Controls], give_up: Callable[[], None]
    ) -> Asking:
        look = self.looking(ledger)

        async def tick(scheduler: StreamScheduler) -> None:
            try:
                controls = talk.ask(look(scheduler.signals()))
            except Abandoned:
                give_up()
                return
            await self._set(controls, scheduler)

        return Asking(None, tick, lambda _asked, _answer, _scheduler: None)

    def posting(self, config: Config, ledger: Ledger, talk: Talk[Ticked, Controls]) -> Asking:
        look = self.looking(ledger)
        waiting: dict[int, asyncio.Future[Controls]] = {}

        async def tick(scheduler: StreamScheduler) -> None:
            ticked = look(scheduler.signals())
            answered = waiting[id(ticked)] = asyncio.get_running_loop().create_future()
            talk.post(ticked)
            try:
                controls = await answered
            finally:
                del waiting[id(ticked)]
            await self._set(controls, scheduler)

        def deliver(ticked: Ticked, controls: Controls, _scheduler: StreamScheduler) -> None:
            answered = waiting.get(id(ticked))
            if answered is not None and not answered.done():
                answered.set_result(controls)

        return Asking(None, tick, deliver)

    def looking(self, ledger: Ledger) -> Callable[[Signals], Ticked]:
        """A look at lanes, with what accrued since the one before."""
        rhythm = Rhythm()
        seen = ledger.arrivals

        def look(signals: Signals) -> Ticked:
            nonlocal seen
            for _ in range(ledger.arrivals - seen):
                rhythm.beat(signals.at_s)
            seen = ledger.arrivals
            cost = ledger.settle(signals.at_s)
            observation = self.codec.observe(signals, rhythm.at(signals.at_s))
            return Ticked(signals, observation, self.codec.mask(signals), cost)

        return look

    async def _set(self, controls: Controls, scheduler: StreamScheduler) -> None:
        for lane, index in controls.items():
            # A lane may die, or have its drafter closed, between the look and this.
            with suppress(LaneLost, NotSpeculating):
                await scheduler.control(lane, self.codec.controls[index], TTL_TICKS * self.tick_s)
