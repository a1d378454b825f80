"""The proposer of a lane that drafts in its scheduler: to vLLM's model runner it proposes nothing."""

from collections.abc import Sequence
from typing import Any

from vllm.config import VllmConfig


class SilentProposer:
    """vLLM's `custom_class` proposer; drafts come from `LaneScheduler`, which knows the requests by their ids."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        del vllm_config

    def propose(self, sampled_token_ids: Sequence[Sequence[int]], *_: Any, **__: Any) -> list[list[int]]:
        """An empty draft for every request of the batch."""
        return [[] for _ in sampled_token_ids]

    def load_model(self, *_: Any, **__: Any) -> None:
        """There is none."""
