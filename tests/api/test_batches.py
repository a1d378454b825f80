"""A batch finds room for all its prompts or is refused: vLLM's own endpoints, with a renderer that renders nothing."""

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import State
from vllm.entrypoints.openai.chat_completion.batch_serving import OpenAIServingChatBatch
from vllm.entrypoints.openai.chat_completion.protocol import BatchChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse

from streamserve.api.batches import count_prompts

UNKNOWN = ErrorResponse(error=ErrorInfo(message="no such model", type="NotFoundError", code=404))


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", **fields})


def conversations(count: int) -> BatchChatCompletionRequest:
    conversation = [{"role": "user", "content": "hello"}]
    return BatchChatCompletionRequest.model_validate({"model": "m", "messages": [conversation] * count})


class Full(Exception):
    """There is no room."""


class Renderer:
    """Renders every prompt as nothing."""

    use_harmony = False
    parser = chat_template = default_chat_template_kwargs = None
    chat_template_content_format = "auto"
    trust_request_chat_template = False

    async def render_completion(self, request: CompletionRequest) -> list[Any]:
        return [{} for _ in request.prompt or ()]

    def validate_chat_template(self, **_: Any) -> None: ...

    async def preprocess_chat(self, *_: Any, **__: Any) -> Any:
        return [], [{}]


class Application:
    """vLLM's two endpoints for batches in front of a server that has room for four sequences."""

    def __init__(self, unknown: bool = False) -> None:
        self.checked: list[int] = []
        completion: Any = object.__new__(OpenAIServingCompletion)
        chat: Any = object.__new__(OpenAIServingChatBatch)

        async def check_model(request: Any) -> ErrorResponse | None:
            return UNKNOWN if unknown else None

        for serving in (completion, chat):
            serving.engine_client = SimpleNamespace(errored=False, check_admission=self.check)
            serving.online_renderer = Renderer()
            serving._check_model = check_model
        self.completion, self.chat = completion, chat
        count_prompts(State({"openai_serving_completion": completion, "openai_serving_chat_batch": chat}), self.check)

    def check(self, n: int) -> None:
        self.checked.append(n)
        if n > 4:
            raise Full


@pytest.mark.parametrize(("prompts", "n"), [(1, 4), (2, 2), (4, 1)])
async def test_a_batch_with_room_is_rendered(prompts: int, n: int) -> None:
    application = Application()
    request = completion(prompt=["a"] * prompts, n=n)
    assert await application.completion.render_completion_request(request) == [{}] * prompts
    assert application.checked[-1] == 4


@pytest.mark.parametrize(("prompts", "n"), [(5, 1), (3, 2)])
async def test_a_batch_of_prompts_without_room_for_all_is_refused_before_anything_is_computed(
    prompts: int, n: int
) -> None:
    application = Application()
    with pytest.raises(Full):
        await application.completion._create_completion(completion(prompt=["a"] * prompts, n=n))
    assert application.checked == [n, prompts * n]


async def test_a_batch_of_conversations_is_counted_as_well() -> None:
    application = Application()
    requests, _, prompts = await application.chat.render_batch_chat_request(conversations(4))
    assert len(requests) == len(prompts) == 4
    with pytest.raises(Full):
        await application.chat.render_batch_chat_request(conversations(5))
    assert application.checked == [1, 4, 1, 5]


async def test_what_is_refused_otherwise_asks_for_no_room() -> None:
    application = Application(unknown=True)
    assert await application.completion.render_completion_request(completion(prompt="a")) is UNKNOWN
    assert await application.chat.render_batch_chat_request(conversations(1)) is UNKNOWN
    assert application.checked == []
