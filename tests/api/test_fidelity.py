"""Which requests may send their first token early, and which may be split over two lanes."""

from typing import Any

import pytest
import torch
from vllm.sampling_params import RepetitionDetectionParams, SamplingParams, StructuredOutputsParams
from vllm.v1.engine import EngineCoreRequest

from streamserve.api.fidelity import continuable, splittable


def make_request(**fields: Any) -> EngineCoreRequest:
    defaults: dict[str, Any] = {
        "request_id": "r",
        "prompt_token_ids": [1, 2, 3],
        "mm_features": None,
        "sampling_params": None,
        "pooling_params": None,
        "arrival_time": 0.0,
        "lora_request": None,
        "cache_salt": None,
        "data_parallel_rank": None,
    }
    return EngineCoreRequest(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("sampling", "early", "split"),
    [
        ({}, True, True),
        ({"temperature": 0.0}, True, True),
        ({"temperature": 0.0, "seed": 7}, True, True),
        ({"temperature": 1e-5, "seed": 7}, False, True),
        ({"seed": 7}, False, True),
        ({"seed": 0}, False, True),
        ({"top_p": 0.5, "top_k": 4, "min_p": 0.1}, True, True),
        ({"repetition_penalty": 1.3}, True, True),
        ({"presence_penalty": 0.5}, False, True),
        ({"presence_penalty": -0.5}, False, True),
        ({"frequency_penalty": 0.5}, False, True),
        ({"bad_words": ["no"]}, False, True),
        ({"stop": ["\n"], "stop_token_ids": [5], "min_tokens": 2, "ignore_eos": True}, True, True),
        ({"logit_bias": {1: 1.0}, "allowed_token_ids": [1, 2]}, True, True),
        ({"structured_outputs": StructuredOutputsParams(regex="a+")}, False, True),
        ({"repetition_detection": RepetitionDetectionParams(max_pattern_size=3, min_count=2)}, False, True),
        ({"thinking_token_budget": 10}, False, True),
        ({"logprobs": 0}, False, True),
        ({"logprobs": 3}, False, True),
        ({"logprob_token_ids": [4]}, False, True),
        ({"prompt_logprobs": 0}, False, False),
        ({"watermarking": False}, True, True),
        ({"watermarking": True}, False, True),
    ],
)
def test_what_the_sampling_allows(sampling: dict[str, Any], early: bool, split: bool) -> None:
    request, parameters = make_request(), SamplingParams(**sampling)
    assert continuable(request, parameters) is early
    assert splittable(request, parameters) is split


@pytest.mark.parametrize(
    ("fields", "early", "split"),
    [
        ({"mm_features": []}, True, True),
        ({"mm_features": [object()]}, False, True),
        ({"prompt_embeds": torch.zeros(3, 2), "prompt_token_ids": None}, False, False),
        ({"prompt_embeds": torch.zeros(3, 2)}, False, False),
        ({"resumable": True}, True, False),
    ],
)
def test_what_the_prompt_allows(fields: dict[str, Any], early: bool, split: bool) -> None:
    request = make_request(**fields)
    assert continuable(request, SamplingParams()) is early
    assert splittable(request, SamplingParams()) is split
