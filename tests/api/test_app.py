"""Whose key may change a lane, and that batches are counted."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.datastructures import State

from streamserve.config import ServerConfig
from streamserve.errors import ConfigError


@pytest.mark.parametrize(
    ("admin", "clients", "environment", "expected"),
    [
        (["admin"], ["client"], "env", ["admin"]),
        (["admin"], None, "", ["admin"]),
        ([], ["one", "two"], "env", ["one", "two"]),
        ([], None, "env", ["env"]),
        ([], None, "", []),
    ],
)
def test_admin_keys(
    monkeypatch: pytest.MonkeyPatch, admin: list[str], clients: list[str] | None, environment: str, expected: list[str]
) -> None:
    from streamserve.api.app import _admin_keys

    monkeypatch.setenv("VLLM_API_KEY", environment)
    assert _admin_keys(Namespace(api_key=clients), ServerConfig(admin_keys=admin)) == expected


async def test_a_batch_asks_for_room_for_all_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamserve.api import app

    async def render(request: Any) -> list[Any]:
        return [{}] * 3

    serving = SimpleNamespace(render_completion_request=render, render_batch_chat_request=render)

    async def fill(_client: Any, state: State, *_: Any) -> None:
        state.openai_serving_completion = state.openai_serving_chat_batch = serving

    checked: list[int] = []
    client = cast(Any, SimpleNamespace(model_config=None, check_admission=checked.append))
    monkeypatch.setattr(app, "build_app", lambda *_: FastAPI())
    monkeypatch.setattr(app, "init_app_state", fill)
    await app.build(Namespace(api_key=None), client, cast(Any, None), ServerConfig())
    assert await serving.render_completion_request(SimpleNamespace(n=2)) == [{}] * 3
    assert checked == [6]


@pytest.mark.parametrize("name", ["ssl-keyfile", "ssl_certfile", "port", "h11-max-header-count"])
def test_options_of_a_server_that_we_do_not_run_are_refused(name: str) -> None:
    from streamserve.api import app

    with pytest.raises(ConfigError, match=f"server.extra.{name} has no effect"):
        app.options("model", ServerConfig(extra={name: "x"}))
