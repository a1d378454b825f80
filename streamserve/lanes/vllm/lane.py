"""`VllmLane`: the `Lane` whose engine is vLLM in a process of its own.

A request's `payload` is vLLM's `EngineCoreRequest`, a chunk's `output` its `EngineCoreOutput`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm.v1.engine import EngineCoreOutputs

from streamserve.clock import now
from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.errors import LaneLost, NotSpeculating
from streamserve.lanes.vllm import arguments, environment
from streamserve.lanes.vllm.controls import encoded
from streamserve.lanes.vllm.device import DeviceSampler
from streamserve.lanes.vllm.handshake import Addresses, greet
from streamserve.lanes.vllm.hops import continues, decode_hop, prefill_hop, release_hop
from streamserve.lanes.vllm.launch import EngineProcess, Launcher, in_thread
from streamserve.lanes.vllm.link import EngineLink
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.lanes.vllm.process import EngineSpec
from streamserve.lanes.vllm.requests import greedy_request
from streamserve.lanes.vllm.stats import LaneMeter
from streamserve.protocols import Lane, Progress, TokenStream
from streamserve.signals import DepthControl, DepthMode, DeviceSignals, LaneSignals
from streamserve.stream import settle
from streamserve.types import KVHandle, LaneId, LaneState, Prefilled, Request

WARM_UP_PROMPT_TOKENS = 32
"""Fewer than a KV block has, so that nothing of it is cached."""
WARM_UP_TOKENS = 6
WARM_UP_BATCHES = (8, 1, 2)
"""With drafts of any length these give steps of 1 to 70 tokens."""

LEAVE_S = 10.0
"""How long a process may take to leave once its engine is known to be gone, before it is killed."""

OnOutputs = Callable[[int, EngineCoreOutputs], None]
"""Told of every engine step: the lane's index and what the engine reported."""


class VllmLane:
    """One vLLM engine."""

    def __init__(
        self,
        plan: LanePlan,
        model: str,
        engine: EngineConfig,
        speculation: SpeculationConfig,
        launcher: Launcher,
        on_outputs: OnOutputs,
    ) -> None:
        self._plan = plan
        self._model = model
        self._engine = engine
        self._speculation = speculation
        self._launcher = launcher
        self._log = launcher.log_folder / f"{plan.id}.log"
        self._on_outputs = on_outputs
        default = None if speculation.method == "none" else speculation.default
        self._meter = LaneMeter(plan.id, default, engine.max_running, engine.max_step_tokens, engine.stall_s)
        self._state = LaneState.STOPPED
        self._starts = 0
        self._error: str | None = None
        self._addresses: Addresses | None = None
        self._process: EngineProcess | None = None
        self._link: EngineLink | None = None
        self._sampler: DeviceSampler | None = None
        self._measuring = False

    @property
    def id(self) -> LaneId:
        return self._plan.id

    def signals(self) -> LaneSignals:
        pid = self._process.pid if self._process else None
        device = self._sampler.sample(now()) if self._sampler else DeviceSignals()
        return self._meter.snapshot(self._current(), max(0, self._starts - 1), pid, self._error, device)

    async def start(self, progress: Progress) -> None:
        self._state = LaneState.STARTING
        self._starts += 1
        started_s = now()
        try:
            await self._bring_up(lambda stage: progress(self.id, stage))
        except BaseException as error:
            self._error = str(error)
            await self._take_down(LaneState.LOST)
            raise
        self._error = None
        self._state = LaneState.READY
        progress(self.id, f"ready in {now() - started_s:.1f} s")

    async def lost(self) -> str:
        reason = await _end(self._process, self._link) if self._process is not None else ""
        if self._state is LaneState.STOPPED:
            # Stopped on purpose, hence never lost: whoever waits for a loss waits until it is cancelled.
            await asyncio.get_running_loop().create_future()
        self._error = reason
        await self._take_down(LaneState.LOST)
        return reason

    async def prefill(self, request: Request) -> Prefilled:
        hop = prefill_hop(request.payload, request.continuable)
        stream = await self._ready_link().submit(hop)
        try:
            chunk = await anext(stream)
        finally:
            await stream.aclose()
        output = chunk.output
        going_on = continues(output)
        # vLLM holds the KV of a sequence that a stop token ended just as well.
        held, output.kv_transfer_params = output.kv_transfer_params, None
        kv = None if held is None else KVHandle(self.id, held)
        if not going_on:
            return Prefilled(chunk, kv)
        output.finish_reason = None
        return Prefilled(replace(chunk, finish=None), kv)

    async def decode(self, request: Request, kv: KVHandle | None = None, sent: Sequence[int] = ()) -> TokenStream:
        return await self._ready_link().submit(decode_hop(request.payload, kv, sent, request.max_depth))

    async def release(self, kv: KVHandle) -> None:
        if self._link is not None:
            await self._link.send(release_hop(kv.params["remote_request_id"], kv))

    async def control(self, control: DepthControl | None, ttl_s: float) -> None:
        if self._speculation.method == "none":
            raise NotSpeculating(f"{self.id} drafts nothing: start the server with speculation.method=ngram")
        await self.call("streamserve_depth", None if control is None else encoded(control), ttl_s)
        self._meter.controlled(control, ttl_s)

    async def call(self, method: str, *arguments: object) -> object:
        """Run a method of the engine core between two of its steps. Raises `LaneLost`."""
        return await self._ready_link().call(method, *arguments)

    async def aclose(self) -> None:
        await self._take_down(LaneState.STOPPED)

    async def _bring_up(self, on_stage: Callable[[str], None]) -> None:
        self._addresses = addresses = Addresses()
        keywords = arguments.engine_arguments(self._model, self._engine, self._plan, self._speculation)
        spec = EngineSpec(
            self.id, keywords, environment.of_lane(self._plan), self._plan.cores, addresses.handshake, self._log
        )
        on_stage("waiting for vLLM's import")
        self._process = process = await self._launcher.launch(spec, on_stage)
        # In a thread, since a GPU's driver takes its time to answer the first call.
        self._sampler = await in_thread(lambda: DeviceSampler(process.pid, self._plan.gpus))
        coming = asyncio.ensure_future(self._connect(process, addresses, keywords, on_stage))
        exiting = asyncio.ensure_future(process.exited())
        try:
            await asyncio.wait((coming, exiting), return_when=asyncio.FIRST_COMPLETED)
            if exiting.done():
                raise process.start_error(exiting.result())
            await coming
        except LaneLost:
            # It said that it dies, or says nothing any more; how, its process tells, if it ends.
            raise process.start_error(await _end(process, self._link)) from None
        finally:
            coming.cancel()
            exiting.cancel()
            await asyncio.gather(coming, exiting, return_exceptions=True)

    async def _connect(
        self, process: EngineProcess, addresses: Addresses, keywords: dict[str, Any], on_stage: Callable[[str], None]
    ) -> None:
        await greet(addresses)
        config = await in_thread(lambda: arguments.vllm_config(keywords))
        try:
            self._link = EngineLink(self.id, config, addresses, self._take_in, self._engine.hang_s)
        except TimeoutError as error:
            raise process.start_error("its engine said that it is ready, and then nothing more") from error
        on_stage("warming up")
        await self._warm_up(self._link)

    async def _warm_up(self, link: EngineLink) -> None:
        """Let the engine prepare what its first steps of each size need, then measure what later ones cost.

        So no client waits for the first part, and no cost model learns from it; after the second, SpecuStream and
        FlowGuard decide on measured costs from the first request on.
        """
        for measuring in (False, True):
            await link.call("streamserve_forget")
            if self._speculation.method != "none":
                deepest = DepthControl(DepthMode.FIXED, depth=self._speculation.max_depth)
                await link.call("streamserve_depth", encoded(deepest), 60.0)
            self._measuring = measuring
            for requests in WARM_UP_BATCHES:
                await _run_dry(link, requests)
        self._measuring = False
        keep_cost = True
        await link.call("streamserve_forget", keep_cost)

    async def _take_down(self, state: LaneState) -> None:
        # To its end, even if whoever watches the lane is cancelled meanwhile: nobody could do the rest of it.
        await settle(self._clean_up(state))

    async def _clean_up(self, state: LaneState) -> None:
        self._state = state
        self._meter.forget_load()
        link, self._link = self._link, None
        process, self._process = self._process, None
        self._sampler = None
        if link is not None:
            link.fail(f"{self.id} is gone: {self._error or 'it was stopped'}")
            await link.close()
        addresses, self._addresses = self._addresses, None
        if process is not None:
            await (process.stop() if state is LaneState.STOPPED else process.kill())
        if addresses is not None:
            addresses.unlink()

    def _current(self) -> LaneState:
        # An engine says that it is dying before its process has ended.
        dying = self._state is LaneState.READY and self._link is not None and self._link.broken
        return LaneState.LOST if dying else self._state

    def _ready_link(self) -> EngineLink:
        if self._link is None or self._current() is not LaneState.READY:
            raise LaneLost(f"{self.id} is {self._current()}{f': {self._error}' if self._error else ''}", lane=self.id)
        return self._link

    def _take_in(self, outputs: EngineCoreOutputs) -> None:
        if self._state is LaneState.STARTING:
            if self._measuring:
                self._meter.measure(outputs)
            return
        self._meter.observe(outputs)
        self._on_outputs(self._plan.index, outputs)


async def _end(process: EngineProcess, link: EngineLink | None) -> str:
    """Wait until the process has ended, or should have since its engine is gone or hangs; why."""
    exiting = asyncio.ensure_future(process.exited())
    ending = asyncio.ensure_future(link.ended()) if link is not None else exiting
    try:
        await asyncio.wait((exiting, ending), return_when=asyncio.FIRST_COMPLETED)
        if link is not None and link.hangs:
            return "its engine hangs"
        await asyncio.wait((exiting,), timeout=LEAVE_S)
        return exiting.result() if exiting.done() else f"its engine ended and its process did not within {LEAVE_S:g} s"
    finally:
        exiting.cancel()
        ending.cancel()


async def _run_dry(link: EngineLink, requests: int) -> None:
    """Serve some requests whose prompts repeat themselves, so that the drafter finds something."""
    streams = []
    for number in range(requests):
        prompt = [1 + number + place % 4 for place in range(WARM_UP_PROMPT_TOKENS)]
        streams.append(await link.submit(greedy_request(f"warm-up-{number}", prompt, WARM_UP_TOKENS).payload))
    for stream in streams:
        [_ async for _ in stream]


if TYPE_CHECKING:
    _lane: type[Lane] = VllmLane
