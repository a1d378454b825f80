"""From chunks of tokens to vLLM's `RequestOutput`s: text, stop strings, logprobs, usage; once a request, in front."""

from collections.abc import Mapping

from vllm.config import VllmConfig
from vllm.outputs import RequestOutput
from vllm.tokenizers import TokenizerLike
from vllm.v1.engine import EngineCoreEventType, EngineCoreOutput, EngineCoreRequest
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest

from streamserve.api.metrics import EngineMetrics
from streamserve.types import Chunk, LaneId


class Detokenizer:
    """vLLM's output processor, fed request by request instead of engine step by engine step."""

    def __init__(
        self,
        config: VllmConfig,
        tokenizer: TokenizerLike | None,
        metrics: EngineMetrics,
        lane_index: Mapping[LaneId, int],
    ) -> None:
        self._processor = OutputProcessor(
            tokenizer, log_stats=True, stream_interval=config.scheduler_config.stream_interval
        )
        self._metrics = metrics
        self._lane_index = lane_index

    @property
    def open_requests(self) -> int:
        return len(self._processor.request_states)

    def open(
        self, request: EngineCoreRequest, prompt: str | None, parent: ParentRequest | None = None, index: int = 0
    ) -> None:
        """Expect the chunks of a request."""
        self._processor.add_request(request, prompt, parent, index, None)

    def feed(self, chunk: Chunk) -> list[RequestOutput]:
        """Take in a chunk; what the client is to be told now, often one output, none while text is held back."""
        self._queue_once(chunk.output)
        stats = self._metrics.iteration(self._lane_index[chunk.lane] if chunk.lane is not None else 0)
        outputs = self._processor.process_outputs([chunk.output], chunk.at_s, stats).request_outputs
        return [output for output in outputs if isinstance(output, RequestOutput)]

    def _queue_once(self, output: EngineCoreOutput) -> None:
        # A request that goes on at a second engine is queued there again, after it was scheduled first; vLLM would take
        # the one from the other and find that it waited less than no time.
        state = self._processor.request_states.get(output.request_id)
        if state is not None and not state.is_prefilling and output.events:
            output.events = [event for event in output.events if event.type is not EngineCoreEventType.QUEUED]

    def is_open(self, request_id: str) -> bool:
        """Whether more chunks are expected: false once it finished, also by a stop string that no engine knows of."""
        return self._processor.has_request(request_id)

    def close(self, request_id: str) -> None:
        """Forget a request; does nothing when it is finished."""
        self._processor.abort_requests([request_id], internal=True)
