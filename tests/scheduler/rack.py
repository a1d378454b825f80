"""A scheduler over fake lanes, with everything that it reported."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streamserve.config import Config, LaneConfig, SchedulerConfig, SloConfig
from streamserve.flowguard import routers
from streamserve.pipeserve.pipeserve import PipeServe
from streamserve.pipeserve.supervisor import Supervisor
from streamserve.protocols import Engine, Lane, Router, TokenStream
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.signals import LaneLoad, Signals
from streamserve.types import Decision, LaneId, Request, Result
from tests.fakes import FakeLane, ticks

TWO_PAIRS = (("a", "b"), ("c", "d"))


class Taught:
    """A router that routes as another does, and keeps what it was shown and what it was told to learn."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.asked: list[tuple[Request, Signals]] = []
        self.learned: list[Result] = []

    def route(self, request: Request, signals: Signals) -> Decision:
        self.asked.append((request, signals))
        return self.router.route(request, signals)

    def learn(self, result: Result) -> None:
        self.learned.append(result)


class Rack:
    """Lanes, supervised and behind a scheduler; `wrap` puts something around each lane, `engine` replaces PipeServe.

    router: the name of a shipped one, or a router.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]] = TWO_PAIRS,
        wrap: Callable[[FakeLane], Lane] = lambda lane: lane,
        engine: Engine | None = None,
        router: str | Router = "round_robin",
        slo: SloConfig | None = None,
        **config: Any,
    ) -> None:
        self.lanes = {LaneId(id): FakeLane(id) for pair in pairs for id in pair}
        wrapped = {id: wrap(lane) for id, lane in self.lanes.items()}
        self.supervisor = Supervisor(list(wrapped.values()), restart_backoff_s=(1.0,))
        self.results: list[Result] = []
        self.decisions: list[Decision] = []
        chosen = tuple((LaneId(prefill), LaneId(decode)) for prefill, decode in pairs)
        self.router = Taught(routers.build(router, chosen) if isinstance(router, str) else router)
        self.scheduler = StreamScheduler(
            engine or PipeServe(wrapped),
            self.router,
            Config(
                lanes=[LaneConfig(id) for id in self.lanes],
                pairs=list(chosen),
                slo=slo or SloConfig(),
                scheduler=SchedulerConfig(**{"late_binding": "always", "backlog_s": 0.25, **config}),
            ),
            self.results.append,
            self.supervisor.changed,
        )

    async def __aenter__(self) -> "Rack":
        await self.supervisor.start(lambda lane, stage: None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.scheduler.close()
        await self.supervisor.aclose()

    def __getitem__(self, lane: str) -> FakeLane:
        return self.lanes[LaneId(lane)]

    def serve(self, request: Request) -> TokenStream:
        return self.scheduler.serve(request, self.decisions.append)

    def read(self, request: Request) -> asyncio.Task[list[int]]:
        """A task that reads the request's output to the end."""
        return asyncio.create_task(read(self.serve(request)))

    @property
    def chosen(self) -> list[tuple[str, str]]:
        return [(decision.prefill, decision.decode) for decision in self.decisions]

    @property
    def load(self) -> Mapping[LaneId, LaneLoad]:
        return self.scheduler.signals().load

    async def assert_empty(self) -> None:
        """Nothing of any request is left: not counted, not queued, not holding a place, not on a lane."""
        await ticks()
        assert set(self.load.values()) == {LaneLoad()}
        assert self.scheduler.signals().queued == 0
        assert not self.scheduler._open
        assert self.router.learned == self.results
        assert all(lane.idle for lane in self.lanes.values())


async def read(stream: TokenStream) -> list[int]:
    return [token async for chunk in stream for token in chunk.token_ids]
