"""`python -m streamserve.bench.handover`: what a stream pair costs over its parts, on this machine.

Two one-core lanes and the HTTP front run in this process, as `streamserve serve` wires them. In turn, per repeat: a
prompt prefilled alone, the same length through the pair, over HTTP, and decoded on the decode lane alone.
"""

import argparse
import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from streamserve import config as configuration
from streamserve.bench import rig
from streamserve.bench.figures import ratio, spread
from streamserve.clock import now
from streamserve.config import Config
from streamserve.lanes.vllm import model, plan
from streamserve.pipeserve.pipeserve import PipeServe
from streamserve.protocols import Engine, Lane, TokenStream
from streamserve.types import Decision, LaneId, Prefilled, Request

PLAIN_PAIR = [
    *("pairs=[[lane-0, lane-1]]", "router=round_robin"),
    *("scheduler.backlog_s=null", "speculation.method=none"),
]
"""Every request over both lanes, and a token a step: what is timed here is the hand-over alone."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One request: time to the first token, and the mean time of each after the second."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Served:
    """Ready lanes, the engine over them, and where its HTTP front listens."""

    lanes: Mapping[LaneId, Lane]
    engine: Engine
    url: str
    name: str
    lane_prefill_s: list[float]
    """The prefill hops so far."""
    served_s: list[float]
    """From headers to first byte, of every HTTP request so far."""


@asynccontextmanager
async def served(config: Config) -> AsyncIterator[Served]:
    """The lanes of a configuration with their front, in this process."""
    rig.prepare_front(config.device)
    from streamserve.api import app, front
    from streamserve.lanes.vllm.lane import VllmLane

    lane_prefill_s: list[float] = []

    class TimedLane(VllmLane):
        """Notes how long each prefill hop took, so that the front's share of the same request can be told."""

        async def prefill(self, request: Request) -> Prefilled:
            begun_s = time.perf_counter()
            prefilled = await super().prefill(request)
            lane_prefill_s.append(time.perf_counter() - begun_s)
            return prefilled

    path = str(model.resolve(config.model, print))
    parts = front.build(config, path, plan.plan(config, plan.available_cores()))
    lanes = rig.live({"lanes": config}, lambda _lane, _stage: None, TimedLane, parts.metrics.engine_step)
    async with lanes as ready:
        lane_set = ready.sets["lanes"]
        scheduler = lane_set.scheduler(lambda _result: None)
        client = parts.client(scheduler)
        application = await app.build(app.options(path, config.server), client, scheduler, config.server)
        served_s: list[float] = []
        name = app.served_name(path, config.server)
        async with listening(_timed_application(application, served_s)) as url:
            yield Served(lane_set.lanes, PipeServe(lane_set.lanes), url, name, lane_prefill_s, served_s)
        await scheduler.close()


def _timed_application(application: Any, served_s: list[float]) -> Any:
    """The front without sockets and client; notes the time from a request's headers to the first piece of answer."""

    async def timed_application(scope: Any, receive: Any, send: Any) -> None:
        begun_s = time.perf_counter()
        waiting = scope["type"] == "http"

        async def noted(message: Any) -> None:
            nonlocal waiting
            if waiting and message["type"] == "http.response.body":
                waiting = False
                served_s.append(time.perf_counter() - begun_s)
            await send(message)

        await application(scope, receive, noted)

    return timed_application


@asynccontextmanager
async def listening(application: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port of the loopback interface; its URL."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def timed(stream: TokenStream, started_s: float) -> Timing:
    """Read a stream to its end."""
    arrivals_s = [now() async for _ in stream]
    return Timing(arrivals_s[0] - started_s, (arrivals_s[-1] - arrivals_s[1]) / (len(arrivals_s) - 2))


async def over_http(client: Any, front: Served, prompt: list[int], output_tokens: int) -> float:
    """Time to the first token over HTTP, in seconds."""
    body = {"model": front.name, "prompt": prompt, "max_tokens": output_tokens, "temperature": 0, "stream": True}
    started_s = now()
    async with client.stream("POST", f"{front.url}/v1/completions", json=body) as response:
        lines = response.aiter_lines()
        await anext(lines)
        return now() - started_s


async def measure(front: Served, prompt_tokens: int, output_tokens: int, repeats: int) -> None:
    """Print the comparison."""
    import httpx

    from streamserve.lanes.vllm.requests import greedy_request

    prefill, decode = front.lanes.values()
    pair = Decision(prefill.id, decode.id, "bench", "measured")
    rng = random.Random(0)
    alone_s, pair_s, http_s, front_s, empty_s, lane_tpot_s, pair_tpot_s = [], [], [], [], [], [], []
    async with httpx.AsyncClient(timeout=60) as client:
        for repeat in range(repeats + 1):
            # A prompt of its own for every request, so that no prefix is cached.
            prompts = [[rng.randrange(1000, 40000) for _ in range(prompt_tokens)] for _ in range(4)]
            started_s = now()
            prefilled = await prefill.prefill(greedy_request(f"alone-{repeat}", prompts[0], output_tokens))
            alone = now() - started_s
            assert prefilled.kv is not None
            await decode.release(prefilled.kv)
            through = await timed(
                front.engine.stream(greedy_request(f"pair-{repeat}", prompts[1], output_tokens), pair, lambda: None),
                now(),
            )
            http = await over_http(client, front, prompts[2], output_tokens)
            http_prefill_s = front.lane_prefill_s[-1]
            by_itself = await timed(
                await decode.decode(greedy_request(f"decode-{repeat}", prompts[3], output_tokens)), now()
            )
            if repeat == 0:
                continue  # the lanes meet for the first time
            alone_s.append(alone)
            pair_s.append(through.ttft_s)
            http_s.append(http)
            front_s.append(front.served_s[-1] - http_prefill_s)
            begun_s = now()
            await client.get(f"{front.url}/version")
            empty_s.append(now() - begun_s)
            lane_tpot_s.append(by_itself.tpot_s)
            pair_tpot_s.append(through.tpot_s)
    print(f"prompt of {prompt_tokens} tokens, {output_tokens} output tokens; median (quartiles)")
    print(f"prefill alone                s  {spread(alone_s)}")
    print(f"TTFT of the pair             s  {spread(pair_s)}")
    print(f"  over prefill alone         x  {ratio(pair_s, alone_s)}")
    print(f"TTFT over HTTP               s  {spread(http_s)}")
    print(f"  front above prefill hop    ms {spread([1e3 * each for each in front_s])}")
    print(f"GET /version, same client    ms {spread([1e3 * each for each in empty_s])}")
    print(f"TPOT of the decode lane      s  {spread(lane_tpot_s)}")
    print(f"TPOT of the pair             s  {spread(pair_tpot_s)}")
    print(f"  over the lane alone        x  {ratio(pair_tpot_s, lane_tpot_s)}")


async def main(prompt_tokens: int, output_tokens: int, repeats: int) -> None:
    config = configuration.load("cpu-pair", PLAIN_PAIR)
    async with served(config) as ready:
        await measure(ready, prompt_tokens, output_tokens, repeats)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=12)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.prompt_tokens, arguments.output_tokens, arguments.repeats))
