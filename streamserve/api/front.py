"""The front's half of vLLM: tokenizer, renderer, detokenizer and metrics; one of each, however many lanes there are."""

from collections.abc import Sequence
from dataclasses import dataclass

from vllm.config import VllmConfig
from vllm.renderers import BaseRenderer, renderer_from_config

from streamserve.api.detokenizer import Detokenizer
from streamserve.api.engine_client import Scheduler, StreamServeClient
from streamserve.api.metrics import EngineMetrics
from streamserve.config import Config
from streamserve.lanes.vllm import arguments
from streamserve.lanes.vllm.plan import LanePlan


@dataclass(frozen=True, slots=True)
class Front:
    """Built once at start, beside the lanes that are still loading."""

    config: VllmConfig
    renderer: BaseRenderer
    metrics: EngineMetrics
    detokenizer: Detokenizer

    def client(self, scheduler: Scheduler) -> StreamServeClient:
        """vLLM's way into this scheduler."""
        return StreamServeClient(self.config, self.renderer, scheduler, self.detokenizer)


def build(config: Config, model: str, plans: Sequence[LanePlan]) -> Front:
    """Load the tokenizer and what goes with it; raises what vLLM raises on a model it cannot serve."""
    # Told of drafting, vLLM refuses requests with min_p or logit_bias. Our lanes serve them, unless their workers are
    # processes of their own, which `lanes.vllm.sampling` does not reach.
    refusing = config.speculation if any(plan.tensor_parallel_size > 1 for plan in plans) else None
    vllm_config = arguments.vllm_config(arguments.engine_arguments(model, config.engine, plans[0], refusing))
    renderer = renderer_from_config(vllm_config)
    metrics = EngineMetrics(vllm_config, len(plans))
    indices = {plan.id: plan.index for plan in plans}
    return Front(vllm_config, renderer, metrics, Detokenizer(vllm_config, renderer.tokenizer, metrics, indices))
