"""Whose POST is let through."""

import httpx
import pytest
from fastapi import FastAPI

from streamserve.api.admin import Keys, PostsNeedKeys


def application(keys: Keys) -> PostsNeedKeys:
    app = FastAPI()
    for path in ("/invocations", "/v1/completions", "/streamserve/policy"):
        app.post(path)(lambda: "done")
    app.get("/metrics")(lambda: "figures")
    return PostsNeedKeys(app, keys)


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/invocations", None, 401),
        ("POST", "/invocations", "other", 401),
        ("POST", "/invocations", "secret", 200),
        ("POST", "/v1/completions", None, 401),
        ("POST", "/streamserve/policy", None, 200),
        ("GET", "/metrics", None, 200),
        ("POST", "/nowhere", "secret", 404),
    ],
)
async def test_with_keys_every_post_but_our_own_needs_one(method: str, path: str, key: str | None, status: int) -> None:
    transport = httpx.ASGITransport(application(Keys(["secret"], "an API key")))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        response = await http.request(method, path, headers=headers)
    assert response.status_code == status
    if status == 401:
        message = f"{path} needs an API key: send it as Authorization: Bearer KEY"
        assert response.json()["error"]["message"] == message


async def test_without_keys_nothing_is_closed() -> None:
    transport = httpx.ASGITransport(application(Keys()))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        assert (await http.post("/invocations")).status_code == 200
