"""Batches: a request of several prompts finds room for all of them, or is refused before any is computed."""

from collections.abc import Callable
from typing import Any

from starlette.datastructures import State
from vllm.entrypoints.serve.engine.protocol import ErrorResponse


def count_prompts(state: State, check: Callable[[int], None]) -> None:
    """Have vLLM's endpoints for batches ask for as much room as they need: by themselves they take them for one prompt.

    state: of vLLM's application. check: raises when there is no room for so many sequences.
    """
    completion, chat = state.openai_serving_completion, state.openai_serving_chat_batch
    render_prompts, render_chats = completion.render_completion_request, chat.render_batch_chat_request

    async def prompts(request: Any) -> Any:
        rendered = await render_prompts(request)
        if not isinstance(rendered, ErrorResponse):
            check(len(rendered) * (request.n or 1))
        return rendered

    async def chats(request: Any) -> Any:
        rendered = await render_chats(request)
        if not isinstance(rendered, ErrorResponse):
            check(sum(each.n or 1 for each in rendered[0]))
        return rendered

    completion.render_completion_request, chat.render_batch_chat_request = prompts, chats
