"""From vLLM's request to ours and back: what was asked for, how a sequence ends, and how often one is begun."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason

from streamserve.api.engine_client import StreamServeClient, _cap_depth, _cap_tokens, _request
from streamserve.errors import LaneLost
from streamserve.lanes.vllm.link import FINISH
from streamserve.protocols import TokenStream
from streamserve.signals import DepthControl, LaneSignals
from streamserve.stream import Stream
from streamserve.types import NO_SLO, Chunk, Decision, Finish, LaneId, LaneState, Request, Slo
from streamserve.virtual import run
from tests.api.test_detokenizer import Metrics, ids, letters
from tests.api.test_detokenizer import make_request as lettered
from tests.api.test_fidelity import make_request
from tests.fakes import ticks
from tests.scheduler.rack import Rack


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


@pytest.mark.parametrize(
    ("asked", "least", "capped"), [(9, 0, (9, 0)), (9, 9, (9, 9)), (1000, 0, (13, 0)), (1000, 500, (13, 13))]
)
def test_no_sequence_is_asked_for_more_than_the_model_can_hold(asked: int, least: int, capped: tuple[int, int]) -> None:
    """An engine that is given a prompt as long as the model can read dies of its first token."""
    request = make_request(sampling_params=SamplingParams(max_tokens=asked, min_tokens=least))
    _cap_tokens(request, len(request.prompt_token_ids or ()) + 13)
    assert request.sampling_params is not None
    assert (request.sampling_params.max_tokens, request.sampling_params.min_tokens) == capped


async def test_priority_and_latencies_reach_the_scheduler() -> None:
    request = _request(core(None), Slo(0.25, 0.05))
    assert (request.priority, request.slo, request.max_tokens) == (-10, Slo(0.25, 0.05), 9)


Step = tuple[str, FinishReason | None] | Exception


class Engine:
    """One lane that plays a script at each attempt, a step a second; the last one again and again."""

    def __init__(self, *attempts: Sequence[Step]) -> None:
        self.attempts = list(attempts)
        self.begun: list[Request] = []
        self.step: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(1.0)

    def signals(self) -> Mapping[LaneId, LaneSignals]:
        return {LaneId("a"): LaneSignals(LaneId("a"), LaneState.READY, 0.0)}

    def stream(
        self, request: Request, decision: Decision, on_prefilled: Callable[[], None], sent: Sequence[int] = ()
    ) -> TokenStream:
        self.begun.append(request)
        steps = self.attempts.pop(0) if len(self.attempts) > 1 else self.attempts[0]

        async def generate() -> AsyncGenerator[Chunk, None]:
            for step in steps:
                await self.step()
                if isinstance(step, Exception):
                    raise step
                text, reason = step
                output = EngineCoreOutput(request.id, ids(text), finish_reason=reason)
                at_s = asyncio.get_running_loop().time()
                yield Chunk(output.new_token_ids, at_s, None if reason is None else FINISH[reason], output)

        return Stream(generate())

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None:
        raise AssertionError("the scheduler controls no depth")


DEAD = LaneLost("lane a died", lane=LaneId("a"))
ENDLESS: list[Step] = [(letter, None) for letter in "cdefghijkl"]
ONCE = RequestOutputKind.FINAL_ONLY


def behind(engine: Engine) -> tuple[Rack, StreamServeClient]:
    rack = Rack((("a", "a"),), engine=engine, max_attempts=3)
    client = object.__new__(StreamServeClient)
    client._scheduler, client._detokenizer = rack.scheduler, letters(Metrics())
    return rack, client


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("kind", [RequestOutputKind.DELTA, ONCE])
def test_a_stop_string_ends_a_request_well(kind: RequestOutputKind, leaves: bool) -> None:
    async def main() -> None:
        rack, client = behind(Engine(ENDLESS))
        async with aclosing(client._sequence(lettered(stop=["ef"], output_kind=kind), "ab")) as outputs:
            async for output in outputs:
                if output.finished and leaves:
                    break
        assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", "ef")
        (result,) = rack.results
        assert (result.finish, result.output_tokens, result.finished_s) == (Finish.STOP, 4, 4.0)

    run(main())


def test_a_client_that_leaves_before_has_aborted_it() -> None:
    async def main() -> None:
        rack, client = behind(Engine(ENDLESS))
        async with aclosing(client._sequence(lettered(stop=["ef"]), "ab")) as outputs:
            await anext(outputs)
        assert [result.finish for result in rack.results] == [Finish.ABORT]

    run(main())


async def test_a_client_that_leaves_several_sequences_has_aborted_them_all() -> None:
    steps = asyncio.Semaphore(3)
    rack, client = behind(engine := Engine(ENDLESS))
    engine.step = steps.acquire
    async with aclosing(client._sequences(lettered(n=3, stop=["yz"]), "ab")) as outputs:
        await anext(outputs)
        await ticks()
        # It leaves just when the next tokens are there.
        for _ in range(3):
            steps.release()
    await ticks()
    assert [result.finish for result in rack.results] == [Finish.ABORT] * 3
    assert client._detokenizer.open_requests == 0


@pytest.mark.parametrize(
    ("attempts", "begun"),
    [
        ([[DEAD]], 3),
        ([[("c", None), DEAD]], 3),
        ([[DEAD], [DEAD], [("c", None), DEAD]], 3),
        ([[("c", None), DEAD], [DEAD]], 4),
    ],
    ids=["at once", "after a token", "the last after a token", "the first after a token"],
)
def test_a_request_that_nothing_was_shown_of_does_not_kill_engines_without_end(
    attempts: list[list[Step]], begun: int
) -> None:
    async def main() -> None:
        engine = Engine(*attempts)
        rack, client = behind(engine)
        with pytest.raises(LaneLost):
            _ = [output async for output in client._sequence(lettered(output_kind=ONCE, seed=7), "ab")]
        assert len(engine.begun) == begun
        assert sum(result.attempts for result in rack.results) == begun

    run(main())


def test_a_request_that_is_begun_anew_came_when_it_came_first() -> None:
    async def main() -> None:
        engine = Engine([("c", None), DEAD], [("c", None), ("d", FinishReason.LENGTH)])
        rack, client = behind(engine)
        await asyncio.sleep(5.0)
        (output,) = [output async for output in client._sequence(lettered(output_kind=ONCE, seed=7), "ab")]
        assert output.outputs[0].text == "cd"
        assert [result.finish for result in rack.results] == [Finish.ERROR, Finish.LENGTH]
        assert [(request.id, request.arrived_s) for request in engine.begun] == [("r", 5.0)] * 2
        assert rack.results[1].e2e_s == 4.0

    run(main())
