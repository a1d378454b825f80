"""How deep a request may go, whatever its lane would like, and how much of prompts a step may have beside it."""

from typing import Any

import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request

from streamserve.lanes.vllm.scheduler import depth_cap, prefill_left, step_tokens
from streamserve.signals import LEAST_CHUNK_TOKENS, StepCost


def make_request(output_tokens: int = 0, **sampling: Any) -> Request:
    request = Request("r", [1, 2, 3], SamplingParams(**{"max_tokens": 10, "temperature": 0.0, **sampling}), None)
    for token in range(output_tokens):
        request.append_output_token_ids(token)
    return request


def test_no_draft_reaches_beyond_the_last_token() -> None:
    """A step gains the accepted draft and one token more."""
    assert depth_cap(make_request()) == 9
    assert depth_cap(make_request(output_tokens=8)) == 1
    assert depth_cap(make_request(output_tokens=9)) == 0


def test_a_client_may_cap_it() -> None:
    assert depth_cap(make_request(extra_args={"max_depth": 2})) == 2
    assert depth_cap(make_request(output_tokens=8, extra_args={"max_depth": 2})) == 1


@pytest.mark.parametrize(
    "sampling", [{"seed": 1, "temperature": 0.7}, {"min_p": 0.1, "temperature": 0.7}, {"logit_bias": {5: 1.0}}]
)
def test_samplers_that_depth_would_change_go_one_token_at_a_time(sampling: dict[str, Any]) -> None:
    assert depth_cap(make_request(**sampling)) == 0


@pytest.mark.parametrize(("before", "cap"), [(0, 3), (2, 1), (3, 0), (4, 5), (5, 4)])
def test_no_step_reaches_beyond_the_least_number_of_tokens(before: int, cap: int) -> None:
    """vLLM forbids the end for a step's last token as for its first, so a step may not begin below and end above."""
    assert depth_cap(make_request(output_tokens=before, min_tokens=4)) == cap


def test_a_seed_means_nothing_to_the_likeliest_token() -> None:
    assert depth_cap(make_request(seed=1)) == 9


def test_where_sampling_is_not_verified_rightly_only_the_likeliest_token_is_drafted_for() -> None:
    assert depth_cap(make_request(temperature=0.7)) == 9
    assert depth_cap(make_request(temperature=0.7), greedy_only=True) == 0
    assert depth_cap(make_request(), greedy_only=True) == 9


@pytest.mark.parametrize(
    ("computed", "chunk", "left"),
    [(0, False, 9), (2, True, 7), (5, True, 4), (8, False, 0)],
    ids=["preempted", "in its prompt", "in its output", "decodes"],
)
def test_a_preempted_request_computes_its_output_anew(computed: int, chunk: bool, left: int) -> None:
    """Never less than nothing: a step with negative prefill would have a negative price."""
    request = make_request(output_tokens=6)
    request.num_computed_tokens, request.is_prefill_chunk = computed, chunk
    assert prefill_left(request) == left


COST = StepCost(((1, 0.02), (65, 0.084)), prefill_token_s=0.002, steps=1)


def decodes(drafted: int = 0) -> Request:
    request = make_request(output_tokens=2)
    request.num_computed_tokens = request.num_tokens - 1
    request.spec_token_ids = [7] * drafted
    return request


def test_prompts_take_whole_steps_where_nobody_decodes() -> None:
    assert step_tokens([make_request()], COST, 0.25, 2048) == 2048


def test_beside_decodes_a_step_has_as_many_prompt_tokens_as_may_stall_them() -> None:
    """4 tokens are verified in 23 ms, which leaves 227 ms for prompts."""
    running = [decodes(drafted=2), decodes(), make_request()]
    assert step_tokens(running, COST, 0.25, 2048) == 4 + 113
    assert step_tokens(running, COST, 0.25, 100) == 100, "never more than a step may have"


def test_a_prompt_gets_on_however_slow_the_decodes_are() -> None:
    assert step_tokens([decodes()], COST, 0.01, 2048) == 1 + LEAST_CHUNK_TOKENS
