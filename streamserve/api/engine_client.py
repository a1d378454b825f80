"""vLLM's `EngineClient` over StreamScheduler: what lets vLLM's own OpenAI application serve from our lanes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from copy import copy
from typing import Any, Protocol

from vllm.config import VllmConfig
from vllm.exceptions import GracefulHTTPError, VLLMValidationError
from vllm.inputs import EngineInput, PromptType
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.renderers import BaseRenderer
from vllm.renderers.inputs.preprocess import extract_prompt_components
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.tasks import SupportedTask
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest

from streamserve.api import trace
from streamserve.api.detokenizer import Detokenizer
from streamserve.api.fidelity import continuable, splittable
from streamserve.api.unsupported import WithoutEngineControls
from streamserve.clock import now
from streamserve.errors import LaneLost, ServeError
from streamserve.protocols import ServedStream
from streamserve.signals import Signals
from streamserve.types import Decision, LaneState, Request, Slo

TASKS: tuple[SupportedTask, ...] = ("generate",)

MAX_DEPTH = "max_depth"
"""The client's cap on draft tokens per step, in `vllm_xargs`; the lanes read it there."""

UNSEEN_STARTS = 3
"""How often a sequence is begun whose client sees nothing before its end."""


class Scheduler(Protocol):
    """What is needed of a `StreamScheduler`."""

    def check(self, n: int = 1) -> None: ...

    def signals(self) -> Signals: ...

    def serve(self, request: Request, on_decision: Callable[[Decision], None]) -> ServedStream: ...


class StreamServeClient(WithoutEngineControls):
    """Serves vLLM's API from a StreamScheduler."""

    def __init__(
        self, config: VllmConfig, renderer: BaseRenderer, scheduler: Scheduler, detokenizer: Detokenizer
    ) -> None:
        self.vllm_config = config
        self.model_config = config.model_config
        self.renderer = renderer
        self.input_processor = InputProcessor(config, renderer)
        self._scheduler = scheduler
        self._detokenizer = detokenizer

    @property
    def is_running(self) -> bool:
        return True

    @property
    def is_stopped(self) -> bool:
        return False

    @property
    def errored(self) -> bool:
        # A lost lane is restarted and its requests run elsewhere: no state of the lanes makes the front give up.
        return False

    @property
    def dead_error(self) -> BaseException:
        return EngineDeadError()

    async def get_supported_tasks(self) -> tuple[SupportedTask, ...]:
        return TASKS

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        try:
            self._scheduler.check(n)
        except ServeError as error:
            raise _graceful(error) from error

    async def check_health(self) -> None:
        signals = self._scheduler.signals()
        if not any(lane.state is LaneState.READY for lane in signals.lanes.values()):
            raise EngineDeadError()

    async def generate(
        self,
        prompt: EngineCoreRequest | PromptType | EngineInput | AsyncGenerator[Any, None],
        sampling_params: SamplingParams,
        request_id: str,
        *,
        prompt_text: str | None = None,
        lora_request: LoRARequest | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
        session_id: str | None = None,
        kv_hints: Any = None,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: dict[str, Any] | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        # Where a request runs is StreamScheduler's decision: the client's data_parallel_rank is not looked at.
        wishes = trace.wishes.get()
        core = self.input_processor.process_inputs(
            request_id,
            prompt,  # type: ignore[arg-type]
            sampling_params,
            supported_tasks=TASKS,
            lora_request=lora_request,
            tokenization_kwargs=tokenization_kwargs,
            trace_headers=trace_headers,
            priority=priority if wishes.priority is None else wishes.priority,
            session_id=session_id,
            kv_hints=kv_hints,
        )
        core.reasoning_ended = reasoning_ended
        core.reasoning_parser_kwargs = reasoning_parser_kwargs
        self.input_processor.assign_request_id(core)
        _strip_transfer_parameters(core)
        _cap_tokens(core, self.model_config.max_model_len)
        _cap_depth(core, wishes.max_depth)
        text = prompt_text or extract_prompt_components(self.model_config, prompt)[0]  # type: ignore[arg-type]
        outputs = self._sequence(core, text) if core.params.n == 1 else self._sequences(core, text)  # type: ignore[union-attr]
        try:
            async for output in outputs:
                yield output
        except ServeError as error:
            raise _graceful(error) from error
        finally:
            await outputs.aclose()

    async def _sequence(
        self, core: EngineCoreRequest, text: str | None, parent: ParentRequest | None = None, index: int = 0
    ) -> AsyncGenerator[RequestOutput, None]:
        """One sequence; one that is shown only when it is whole is begun anew if its lane dies and it cannot resume."""
        assert core.sampling_params is not None
        starts_left = UNSEEN_STARTS if core.sampling_params.output_kind is RequestOutputKind.FINAL_ONLY else 1
        # One for all starts: whoever has waited does not come last again, and its times tell what the client sees.
        request = _request(core, trace.wishes.get().slo)
        while True:
            starts_left -= 1
            attempt = self._attempt(request, text, parent, index)
            try:
                async for output in attempt:
                    yield output
                return
            except LaneLost as error:
                if error.given_up or not starts_left:
                    raise
            finally:
                await attempt.aclose()

    async def _attempt(
        self, request: Request, text: str | None, parent: ParentRequest | None, index: int
    ) -> AsyncGenerator[RequestOutput, None]:
        self._detokenizer.open(request.payload, text, parent, index)
        stream = self._scheduler.serve(request, trace.record)
        try:
            async for chunk in stream:
                outputs = self._detokenizer.feed(chunk)
                over = not self._detokenizer.is_open(request.id)
                if over:
                    # Perhaps by a stop string. Before the client is told: it may leave once it has its last text.
                    stream.satisfy()
                for output in outputs:
                    yield output
                if over:
                    return
        finally:
            self._detokenizer.close(request.id)
            await stream.aclose()

    async def _sequences(self, core: EngineCoreRequest, text: str | None) -> AsyncGenerator[RequestOutput, None]:
        """n > 1: every sequence is scheduled by itself, so they may run on different lanes."""
        parent = ParentRequest(core)
        children = []
        for index in range(parent.n):
            child = copy(core)
            child.request_id, child.sampling_params = parent.get_child_info(index)
            children.append(self._sequence(child, text, parent, index))
        outputs = _merged(children)
        try:
            async for output in outputs:
                yield output
        finally:
            try:
                # First: with their parent forgotten, sequences that still run would look as if they had come to an end.
                await outputs.aclose()
            finally:
                self._detokenizer.close(parent.request_id)


async def _merged(streams: Sequence[AsyncGenerator[RequestOutput, None]]) -> AsyncGenerator[RequestOutput, None]:
    """Outputs of several streams as they come; the first error ends all of them."""
    arrived: asyncio.Queue[RequestOutput | Exception | None] = asyncio.Queue()

    async def drain(stream: AsyncGenerator[RequestOutput, None]) -> None:
        ending: Exception | None = None
        try:
            async for output in stream:
                arrived.put_nowait(output)
        except Exception as error:
            ending = error
        finally:
            await stream.aclose()
            arrived.put_nowait(ending)

    tasks = [asyncio.create_task(drain(stream)) for stream in streams]
    running = len(tasks)
    try:
        while running:
            output = await arrived.get()
            if isinstance(output, Exception):
                raise output
            if output is None:
                running -= 1
            else:
                yield output
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _request(core: EngineCoreRequest, slo: Slo) -> Request:
    sampling = core.sampling_params
    assert sampling is not None
    return Request(
        id=core.request_id,
        prompt_token_ids=core.prompt_token_ids or (),
        max_tokens=sampling.max_tokens or 0,
        arrived_s=now(),
        payload=core,
        priority=core.priority,
        continuable=continuable(core, sampling),
        splittable=splittable(core, sampling),
        slo=slo,
        max_depth=(sampling.extra_args or {}).get(MAX_DEPTH),
    )


def _cap_tokens(core: EngineCoreRequest, max_model_len: int) -> None:
    """Ask for no more tokens than the model has room for, which not all of vLLM's routes see to.

    An engine ends there by itself, but the lane that takes over from another would be given a prompt that fills the
    model's length, and die of the token that it then samples.
    """
    sampling = core.sampling_params
    if sampling is None or sampling.max_tokens is None or core.prompt_token_ids is None:
        return
    sampling.max_tokens = min(sampling.max_tokens, max(1, max_model_len - len(core.prompt_token_ids)))
    sampling.min_tokens = min(sampling.min_tokens, sampling.max_tokens)


def _cap_depth(core: EngineCoreRequest, wished: int | None) -> None:
    """Put the header's depth cap where the lanes look for it; it wins over the body's. Raises `VLLMValidationError`."""
    sampling = core.sampling_params
    if sampling is None:
        return
    extra = sampling.extra_args or {}
    asked = extra.get(MAX_DEPTH) if wished is None else wished
    if asked is None:
        return
    if not isinstance(asked, int) or isinstance(asked, bool) or not 0 <= asked < 2**63:
        message = f"vllm_xargs.{MAX_DEPTH}: {asked!r} is not a number of draft tokens, an integer of at least 0"
        raise VLLMValidationError(message, parameter=f"vllm_xargs.{MAX_DEPTH}")
    sampling.extra_args = {**extra, MAX_DEPTH: asked}


def _strip_transfer_parameters(core: EngineCoreRequest) -> None:
    """Drop a client's own `kv_transfer_params`: an incomplete set can kill an engine, and where KV goes is ours."""
    sampling = core.sampling_params
    if sampling is not None and sampling.extra_args and "kv_transfer_params" in sampling.extra_args:
        kept = {key: value for key, value in sampling.extra_args.items() if key != "kv_transfer_params"}
        sampling.extra_args = kept or None


def _graceful(error: ServeError) -> GracefulHTTPError:
    return GracefulHTTPError(str(error), error.status)
