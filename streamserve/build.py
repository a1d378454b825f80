"""The composition root: a configuration and lanes become what serves requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamserve.config import Config
from streamserve.flowguard import routers
from streamserve.metrics.latency import EngineWithLatencies, LatencyAverages
from streamserve.pipeserve.pipeserve import PipeServe
from streamserve.pipeserve.supervisor import Supervisor
from streamserve.protocols import Lane, Progress
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.types import Result


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves requests: start it, then give requests to the scheduler."""

    supervisor: Supervisor
    scheduler: StreamScheduler

    async def start(self, progress: Progress) -> None:
        """Bring every lane up; raises `LaneStartError`."""
        await self.supervisor.start(progress)

    async def aclose(self) -> None:
        """Refuse new requests, end the running ones, stop every lane."""
        await self.scheduler.close()
        await self.supervisor.aclose()


def assemble(config: Config, lanes: Sequence[Lane], on_result: Callable[[Result], None]) -> Serving:
    """Wire these lanes as the configuration says; live and simulated ones alike."""
    latencies = LatencyAverages()

    def ended(result: Result) -> None:
        latencies.learn(result)
        on_result(result)

    supervisor = Supervisor(lanes, config.scheduler.restart_backoff_s)
    scheduler = StreamScheduler(
        engine=EngineWithLatencies(PipeServe({lane.id: lane for lane in lanes}), latencies),
        router=routers.build(config.router, config.stream_pairs(), config.flowguard),
        config=config,
        on_result=ended,
        lane_ready=supervisor.changed,
    )
    return Serving(supervisor, scheduler)
