"""The composition root: a configuration and lanes become what serves requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamserve.config import Config
from streamserve.flowguard import routers
from streamserve.metrics.latency import EngineWithLatencies, LatencyAverages
from streamserve.pipeserve.pipeserve import PipeServe
from streamserve.pipeserve.supervisor import Supervisor
from streamserve.policy.switch import PolicySwitch
from streamserve.protocols import Lane, Progress, Router
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.types import Result


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves requests: start it, then give requests to the scheduler."""

    supervisor: Supervisor
    scheduler: StreamScheduler
    policies: PolicySwitch | None = None
    """Trained policies, where the router is one that can have them."""

    async def start(self, progress: Progress) -> None:
        """Bring every lane up; raises `LaneStartError`."""
        await self.supervisor.start(progress)
        if self.policies is not None:
            self.policies.start(self.scheduler)

    async def aclose(self) -> None:
        """Refuse new requests, end the running ones, stop every lane."""
        if self.policies is not None:
            await self.policies.aclose()
        await self.scheduler.close()
        await self.supervisor.aclose()


def assemble(
    config: Config, lanes: Sequence[Lane], on_result: Callable[[Result], None], router: Router | None = None
) -> Serving:
    """Wire these lanes as the configuration says; live and simulated ones alike.

    router: instead of the configured one; a `PolicySwitch` is that with trained policies on top.
    """
    latencies = LatencyAverages()

    def ended(result: Result) -> None:
        latencies.learn(result)
        on_result(result)

    supervisor = Supervisor(lanes, config.scheduler.restart_backoff_s)
    scheduler = StreamScheduler(
        engine=EngineWithLatencies(PipeServe({lane.id: lane for lane in lanes}), latencies),
        router=router or routers.build(config.router, config.stream_pairs(), config.flowguard),
        config=config,
        on_result=ended,
        lane_ready=supervisor.changed,
    )
    return Serving(supervisor, scheduler, router if isinstance(router, PolicySwitch) else None)
