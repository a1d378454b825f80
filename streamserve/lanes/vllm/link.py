"""The wire to one engine core: requests go in, outputs come back and are handed to the stream each belongs to.

This stands where vLLM's `AsyncLLM` would: it shares vLLM's client (`AsyncMPClient`) with it but leaves tokenizing and
detokenizing to the front, which does them once per request whichever lanes the request visits.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from copy import copy
from itertools import count

from vllm.config import VllmConfig
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason, core_client
from vllm.v1.engine.core_client import AsyncMPClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor import Executor

from streamserve.errors import LaneLost, one_line
from streamserve.lanes.vllm.handshake import Addresses
from streamserve.types import Chunk, Finish, LaneId

logger = logging.getLogger(__name__)

READY_LIMIT_S = 5
"""How long an engine that has said READY may take until its first message to the client is here; it is sent before."""

FINISH = {
    FinishReason.STOP: Finish.STOP,
    FinishReason.LENGTH: Finish.LENGTH,
    FinishReason.ABORT: Finish.ABORT,
    FinishReason.ERROR: Finish.ERROR,
    FinishReason.REPETITION: Finish.STOP,
}


class EngineLink:
    """Connection to a ready engine core; ends with `close` or when `fail` reports the engine's death.

    hang_s: an engine with work that says nothing for so long is given up, None = never.
    Raises `TimeoutError` when nothing comes from the engine, which may have died since it was ready.
    """

    def __init__(
        self,
        lane: LaneId,
        config: VllmConfig,
        addresses: Addresses,
        on_outputs: Callable[[EngineCoreOutputs], None],
        hang_s: float | None = None,
    ) -> None:
        self.lane = lane
        self.hangs = False
        """Whether the engine was given up without having said anything, so that it will not end by itself."""
        # vLLM's client blocks the event loop until that message comes, for 600 s unless an environment variable said
        # otherwise when it was imported. Not in the environment: engines' processes would inherit it.
        core_client.VLLM_ENGINE_READY_TIMEOUT_S = READY_LIMIT_S
        self._client = AsyncMPClient(
            vllm_config=config,
            executor_class=Executor.get_class(config),
            log_stats=True,
            client_addresses={"input_address": addresses.inputs, "output_address": addresses.outputs},
        )
        self._on_outputs = on_outputs
        self._streams: dict[str, EngineStream] = {}
        self._numbers = count()
        self._lost: str | None = None
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._hang_s = hang_s
        self._heard_s = self._loop.time()
        self._patience: asyncio.TimerHandle | None = None
        self._pump = asyncio.create_task(self._receive(), name="engine outputs")

    @property
    def broken(self) -> bool:
        """Whether the engine is known to be gone."""
        return self._lost is not None

    async def ended(self) -> None:
        """Wait until the engine is known to be gone."""
        await self._gone.wait()

    async def submit(self, request: EngineCoreRequest) -> "EngineStream":
        """Send a request; returns its output stream. Raises `LaneLost`.

        The engine knows it under an id of its own: a request that comes a second time, after another lane died, must
        not meet the first one here, whose KV the engine may still hold. Outputs carry the original id.
        """
        if self._lost is not None:
            raise LaneLost(self._lost, lane=self.lane)
        sent = copy(request)
        # The client's own id is part of it. In NIXL's heartbeats commas stand between ids: one whose id had a comma
        # would not be known by it, and its KV given away while it is still to be fetched.
        sent.request_id = f"{request.request_id.replace(',', '_')}/{next(self._numbers)}"
        stream = EngineStream(self, sent.request_id, request.request_id)
        self._expect()
        self._streams[sent.request_id] = stream
        try:
            await self._client.add_request_async(sent)
        except EngineDeadError as error:
            self._streams.pop(sent.request_id, None)
            raise LaneLost(f"{self.lane} died", lane=self.lane) from error
        except BaseException:
            self.abort(sent.request_id)
            raise
        return stream

    def abort(self, engine_request_id: str) -> None:
        """Forget a request and have the engine free it; does nothing once it finished."""
        if self._streams.pop(engine_request_id, None) is not None and self._lost is None:
            sending = asyncio.ensure_future(self._client.abort_requests_async([engine_request_id]))
            # A send that fails means the engine died, which `fail` is told by other means.
            sending.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def send(self, request: EngineCoreRequest) -> None:
        """Send a request whose outputs nobody waits for. Raises `LaneLost`."""
        if self._lost is not None:
            return
        try:
            await self._client.add_request_async(request)
        except EngineDeadError as error:
            raise LaneLost(f"{self.lane} died", lane=self.lane) from error

    async def call(self, method: str, *arguments: object) -> object:
        """Run a method of the engine core between two of its steps. Raises `LaneLost`."""
        if self._lost is not None:
            raise LaneLost(self._lost, lane=self.lane)
        calling = asyncio.ensure_future(self._client.call_utility_async(method, *arguments))
        losing = asyncio.ensure_future(self._gone.wait())
        try:
            # vLLM's client forgets the calls of an engine that dies.
            await asyncio.wait((calling, losing), return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise LaneLost(self._lost or f"{self.lane} died", lane=self.lane)
            return calling.result()
        except EngineDeadError as error:
            raise LaneLost(f"{self.lane} died", lane=self.lane) from error
        finally:
            calling.cancel()
            losing.cancel()

    def fail(self, reason: str) -> None:
        """The engine is gone: every stream raises `LaneLost`."""
        if self._lost is not None:
            return
        self._lost = reason
        self._gone.set()
        if self._patience is not None:
            self._patience.cancel()
        for stream in self._streams.values():
            stream.fail(reason)
        self._streams.clear()

    async def close(self) -> None:
        """Close the sockets; the engine's process is not ours to end."""
        self.fail(f"{self.lane} was stopped")
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        self._client.shutdown()
        # vLLM leaves its context to the garbage collector; a restarted lane would add threads and files each time.
        self._client.resources.ctx.destroy(linger=0)

    def _expect(self) -> None:
        """From now on the engine has something to say; without work, silence means nothing."""
        if not self._streams:
            self._heard_s = self._loop.time()
        if self._patience is None and self._hang_s is not None:
            self._patience = self._loop.call_at(self._heard_s + self._hang_s, self._listen, self._hang_s)

    def _listen(self, hang_s: float) -> None:
        self._patience = None
        if not self._streams:
            return
        if self._loop.time() >= self._heard_s + hang_s:
            self.hangs = True
            self.fail(f"{self.lane} hangs: it has work and has said nothing for {hang_s:g} s")
        else:
            self._patience = self._loop.call_at(self._heard_s + hang_s, self._listen, hang_s)

    async def _receive(self) -> None:
        while True:
            try:
                outputs = await self._client.get_output_async()
                self._heard_s = self._loop.time()
                for output in outputs.outputs:
                    self._hand_out(output, outputs.timestamp)
            except EngineDeadError:
                self.fail(f"{self.lane} died")
                return
            except Exception as error:
                # No more will come, and whoever waits would wait for ever.
                logger.exception("what %s sent cannot be read; see the traceback", self.lane)
                self.fail(f"{self.lane} is lost: what it sent cannot be read ({one_line(error)})")
                return
            try:
                self._on_outputs(outputs)
            except Exception:
                # A figure less, while the requests themselves go on.
                logger.exception("a step of %s could not be counted; see the traceback", self.lane)

    def _hand_out(self, output: EngineCoreOutput, at_s: float) -> None:
        stream = self._streams.get(output.request_id)
        if stream is None:
            return
        if output.finish_reason is FinishReason.ABORT:
            # What is aborted here has no stream any more, so the engine itself was told to end (SIGTERM). It refuses
            # new requests in the same way, perhaps for long: until KV that it holds is fetched or given up.
            self.fail(f"{self.lane} is shutting down")
            return
        engine_request_id = output.request_id
        stream.push(output, at_s)
        if output.finished:
            del self._streams[engine_request_id]


class EngineStream:
    """`TokenStream` of one request on one engine."""

    def __init__(self, link: EngineLink, engine_request_id: str, request_id: str) -> None:
        self._link = link
        self._engine_request_id = engine_request_id
        self._request_id = request_id
        self._chunks: deque[Chunk] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._error: str | None = None

    def __aiter__(self) -> "EngineStream":
        return self

    async def __anext__(self) -> Chunk:
        while not self._chunks:
            if self._ended:
                raise StopAsyncIteration
            if self._error is not None:
                self._ended = True
                raise LaneLost(self._error, lane=self._link.lane)
            self._arrived.clear()
            await self._arrived.wait()
        chunk = self._chunks.popleft()
        self._ended = self._ended or chunk.finish is not None
        return chunk

    async def aclose(self) -> None:
        self._ended = True
        self._chunks.clear()
        self._link.abort(self._engine_request_id)

    def push(self, output: EngineCoreOutput, at_s: float) -> None:
        output.request_id = self._request_id
        finish = None if output.finish_reason is None else FINISH[output.finish_reason]
        self._chunks.append(Chunk(output.new_token_ids, at_s, finish, output, self._link.lane))
        self._arrived.set()

    def fail(self, reason: str) -> None:
        self._error = reason
        self._arrived.set()
