"""How deep a request may go, whatever its lane would like."""

from typing import Any

import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request

from streamserve.lanes.vllm.scheduler import depth_cap


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


def test_a_seed_means_nothing_to_the_likeliest_token() -> None:
    assert depth_cap(make_request(seed=1)) == 9


def test_where_sampling_is_not_verified_rightly_only_the_likeliest_token_is_drafted_for() -> None:
    assert depth_cap(make_request(temperature=0.7)) == 9
    assert depth_cap(make_request(temperature=0.7), greedy_only=True) == 0
    assert depth_cap(make_request(), greedy_only=True) == 9
