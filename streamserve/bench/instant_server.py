"""`python -m streamserve.bench.instant_server --port PORT`: StreamServe's front over lanes that cost nothing.

All that `streamserve serve` runs in its own process is here: vLLM's application, tokenizer, detokenizer and metrics,
StreamScheduler, FlowGuard and PipeServe; only the messages of engines are missing. With --straight, requests go from
vLLM's application to the lanes in turn, so that the difference is what admission, routing, results and their streams
cost.
"""

import argparse
import asyncio
import cProfile
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import uvicorn
import uvloop

from streamserve.bench.fake_server import MODEL
from streamserve.bench.instant import InstantLane
from streamserve.build import Serving, assemble
from streamserve.config import EMBEDDED_MODEL, Config, LaneConfig, ServerConfig
from streamserve.flowguard import routers
from streamserve.lanes.vllm import environment, model
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.pipeserve.pipeserve import PipeServe
from streamserve.pipeserve.supervisor import Supervisor
from streamserve.policy.switch import PolicySwitch
from streamserve.protocols import ServedStream
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.types import Decision, LaneId, Request, Result

BACKLOG = 2048


class Straight(StreamScheduler):
    """A scheduler that hands every request to the next lane and does nothing else."""

    def __init__(self, lanes: Sequence[InstantLane], config: Config) -> None:
        router = routers.build("round_robin", tuple((lane.id, lane.id) for lane in lanes))
        engine = PipeServe({lane.id: lane for lane in lanes})
        super().__init__(engine, router, config, on_result=lambda _: None, lane_ready=_never)
        self._turn = cycle(lanes)

    def serve(self, request: Request, on_decision: Callable[[Decision], None]) -> ServedStream:
        return next(self._turn).open(request)


async def _never() -> None:
    await asyncio.Event().wait()


class Server(uvicorn.Server):
    """Leaves signals to the loop's own handlers, so that what follows its end still runs."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serving(
    config: Config, lanes: Sequence[InstantLane], on_result: Callable[[Result], None], policies: PolicySwitch | None
) -> Serving:
    """StreamServe's own assembly; without policies only vLLM's application and the lanes."""
    if policies is not None:
        return assemble(config, lanes, on_result, policies)
    return Serving(Supervisor(lanes, config.scheduler.restart_backoff_s), Straight(lanes, config))


async def main(port: int, lane_count: int, interval_s: float, name: str, straight: bool) -> None:
    # As in streamserve.api.server, where lanes have processes.
    os.environ.update({key: value for key, value in environment.shared("cpu").items() if key != "LD_PRELOAD"})
    os.environ["VLLM_CONFIGURE_LOGGING"] = "0"
    from prometheus_client import REGISTRY

    from streamserve.api import app, front
    from streamserve.lanes.vllm.outputs import engine_output
    from streamserve.metrics import policy, prometheus
    from streamserve.metrics.results import ResultMetrics

    ids = [LaneId(f"lane-{place}") for place in range(lane_count)]
    config = Config([LaneConfig(id) for id in ids], model=name, server=ServerConfig(served_model_name=MODEL))
    path = str(model.resolve(name, print))
    parts = front.build(config, path, [LanePlan(id, place, "cpu") for place, id in enumerate(ids)])
    policies = None if straight else PolicySwitch(config)
    ready = serving(config, [InstantLane(id, engine_output, interval_s) for id in ids], ResultMetrics(REGISTRY).learn,
                    policies)  # fmt: skip
    if policies is not None:
        prometheus.install(ready.scheduler, REGISTRY)
        policy.install(policies.tally, REGISTRY)
    client = parts.client(ready.scheduler)
    application = await app.build(app.options(path, config.server), client, ready.scheduler, config.server, policies)
    await ready.start(lambda lane, stage: None)
    server = Server(uvicorn.Config(application, port=port, backlog=BACKLOG, log_level="warning", access_log=False))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.handle_exit, signal.SIGTERM, None)
    try:
        await server.serve()
    finally:
        await ready.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--interval-ms", type=float, default=0.0, help="from token to token")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="whose tokenizer and chat template")
    parser.add_argument("--straight", action="store_true", help="vLLM's application and the lanes alone")
    parser.add_argument("--profile", type=Path, help="where to leave cProfile's figures of all that was served")
    given = parser.parse_args()
    profile = cProfile.Profile()
    if given.profile:
        profile.enable()
    uvloop.run(main(given.port, given.lanes, given.interval_ms / 1000, given.model, given.straight))
    if given.profile:
        profile.disable()
        profile.dump_stats(given.profile)
