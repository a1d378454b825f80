"""From vLLM's request to ours: the depth cap in the body or a header, and the latencies that were asked for."""

from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest

from streamserve.api.engine_client import _cap_depth, _request
from streamserve.types import NO_SLO, Slo
from tests.api.test_fidelity import make_request


def core(extra_args: dict[str, Any] | None) -> EngineCoreRequest:
    return make_request(sampling_params=SamplingParams(max_tokens=9, extra_args=extra_args), priority=-10)


@pytest.mark.parametrize(
    ("body", "header", "cap"), [(None, None, None), (3, None, 3), (0, None, 0), (None, 2, 2), (7, 0, 0), ("x", 1, 1)]
)
async def test_the_depth_cap_reaches_the_lanes_and_the_header_wins(body: Any, header: int | None, cap: int) -> None:
    request = core({"other": "kept", **({} if body is None else {"max_depth": body})})
    _cap_depth(request, header)
    assert request.sampling_params is not None
    expected = {"other": "kept"} if cap is None else {"other": "kept", "max_depth": cap}
    assert request.sampling_params.extra_args == expected
    assert _request(request, NO_SLO).max_depth == cap


def test_without_a_cap_nothing_is_added() -> None:
    request = core(None)
    _cap_depth(request, None)
    assert request.sampling_params is not None
    assert request.sampling_params.extra_args is None


@pytest.mark.parametrize("body", [-1, 2.0, "3", [1], True])
def test_a_cap_in_the_body_that_cannot_be_meant_is_refused(body: Any) -> None:
    with pytest.raises(VLLMValidationError, match=r"vllm_xargs\.max_depth: .* an integer of at least 0") as refusal:
        _cap_depth(core({"max_depth": body}), None)
    assert refusal.value.parameter == "vllm_xargs.max_depth"


async def test_priority_and_latencies_reach_the_scheduler() -> None:
    request = _request(core(None), Slo(0.25, 0.05))
    assert (request.priority, request.slo, request.max_tokens) == (-10, Slo(0.25, 0.05), 9)
