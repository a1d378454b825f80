"""Input that means harm, or means nothing: each is answered 4xx, and none costs a running request."""

import json
import random
import string
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.live.server import Server

pytestmark = pytest.mark.live

MALFORMED = 1000


def body(rng: random.Random, model: str) -> bytes:
    """A request that no server should accept: truncated, mistyped, out of range, or not JSON at all."""
    good = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    broken: dict[str, list[object]] = {
        "messages": [None, "hi", 7, [], [{"content": "x"}], [{"role": 5, "content": []}], {}],
        "max_tokens": ["many", -5, 1.5, [], 10**9],
        "temperature": ["hot", -1, {}, 1e400],
        "top_p": [0, 7, "all"],
        "n": [0, -1, "two", 2.5],
        "model": [3, "no-such-model", ["a"]],
        "stop": [5, {"a": 1}, [1]],
        "response_format": ["json", {"type": "json_schema"}, {"type": "nonsense"}],
        "logit_bias": ["x", {"-7": "x"}],
        "tools": ["hammer", [{}], [{"type": "function"}]],
        "stream_options": [{"include_usage": True}, "all"],
    }
    kind = rng.randrange(5)
    if kind == 0:
        return "".join(rng.choices(string.printable, k=rng.randrange(1, 200))).encode()
    if kind == 1:
        text = json.dumps(good)
        return text[: rng.randrange(1, len(text) - 1)].encode()
    key = rng.choice(list(broken))
    return json.dumps({**good, key: rng.choice(broken[key])}).encode()


def test_malformed_requests_are_refused_while_others_are_served(server: Server) -> None:
    rng = random.Random(0)
    before = server.restarts()
    bodies = [body(rng, server.model) for _ in range(MALFORMED)]
    headers = {"content-type": "application/json"}
    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(16) as pool:
        running = pool.submit(
            server.openai.completions.create,
            model=server.model,
            prompt="Once upon a time",
            max_tokens=100,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        replies = list(
            pool.map(lambda content: client.post("/v1/chat/completions", content=content, headers=headers), bodies)
        )
        assert running.result().usage.completion_tokens == 100
    wrong = {
        content: (reply.status_code, reply.text[:80])
        for content, reply in zip(bodies, replies, strict=True)
        if not 400 <= reply.status_code < 500 or not reply.json()["error"]["message"] or "Traceback" in reply.text
    }
    assert not wrong
    assert server.restarts() == before
    server.wait_idle()


def test_an_oversized_body_is_a_413(server: Server) -> None:
    huge = b'{"model": "' + b"x" * (9 * 1024 * 1024) + b'"}'
    reply = httpx.post(f"{server.url}/v1/completions", content=huge, timeout=30)
    assert reply.status_code == 413
    assert "server.max_body_bytes" in reply.json()["error"]["message"]


def test_an_unknown_path_is_a_404(server: Server) -> None:
    assert httpx.get(f"{server.url}/v1/nothing").status_code == 404


NOT_SENDABLE = [{"stop": ["\ud800"]}, {"vllm_xargs": {"max_depth": 2**64}}, {"vllm_xargs": {"x": 2**64}}]


@pytest.mark.parametrize("field", NOT_SENDABLE)
def test_what_cannot_be_sent_to_an_engine_is_refused_and_blames_no_lane(
    server: Server, field: dict[str, object]
) -> None:
    asked = {"model": server.model, "prompt": "hi", "max_tokens": 2}
    with httpx.Client(base_url=server.url, headers={"content-type": "application/json"}, timeout=30) as client:
        for _ in range(2):
            reply = client.post("/v1/completions", content=json.dumps(asked | field))
            assert 400 <= reply.status_code < 500, reply.text
        served = client.post("/v1/completions", json=asked, headers={"x-streamserve-decision": "1"})
    assert served.status_code == 200
    assert "its last result was an error" not in served.headers["x-streamserve-decision"]
