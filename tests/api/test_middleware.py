"""What every HTTP request passes through: headers held until the body begins, and the limit of the body."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamserve.api import trace
from streamserve.api.middleware import BodyLimitMiddleware, HeadersMiddleware
from streamserve.api.wishes import Wishes
from tests.fakes import pair

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
MORE: Message = {"type": "http.response.body", "body": b"one ", "more_body": True}
LAST: Message = {"type": "http.response.body", "body": b"two"}


async def reply(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with two chunks."""
    for message in (START, MORE, LAST):
        await send(dict(message))


async def call(
    app: ASGIApp, headers: Iterable[tuple[bytes, bytes]] = (), bodies: Iterable[bytes] = ()
) -> list[Message]:
    """What the application sends when the body arrives in these pieces."""
    sent: list[Message] = []
    pieces = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    arriving = iter([*pieces, {"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        return next(arriving, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "headers": list(headers)}, receive, send)
    return sent


def header(start: Message, name: bytes) -> bytes | None:
    return dict(start["headers"]).get(name)


def deciding(*pairs: tuple[str, str]) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """An application that has its lanes chosen after it has started its response."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        for lanes in pairs:
            trace.record(pair(*lanes))
        await send(dict(LAST))

    return app


def failing(*bodies: bytes) -> ASGIApp:
    """A stream of these events."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


ERROR_EVENT = b'data: {"error":{"message":"no lane is ready","code":503}}\n\n'


class TestFailedStreams:
    async def test_an_error_before_the_first_token_is_a_plain_response_with_its_status(self) -> None:
        start, body = await call(HeadersMiddleware(failing(ERROR_EVENT, b"data: [DONE]\n\n")))
        assert start["status"] == 503
        assert (header(start, b"content-type"), header(start, b"retry-after")) == (b"application/json", b"1")
        assert body["body"] == b'{"error":{"message":"no lane is ready","code":503}}'
        assert not body.get("more_body", False)

    async def test_an_error_after_the_first_token_stays_an_event(self) -> None:
        sent = await call(HeadersMiddleware(failing(b'data: {"choices":[]}\n\n', ERROR_EVENT)))
        assert sent[0]["status"] == 200
        assert [message["body"] for message in sent[1:]] == [b'data: {"choices":[]}\n\n', ERROR_EVENT, b""]


class TestHeaders:
    async def test_a_response_names_its_lanes_and_keeps_its_own_headers(self) -> None:
        start, body = await call(HeadersMiddleware(deciding(("a", "b"))))
        assert (start["status"], body) == (200, LAST)
        assert header(start, b"content-type") == b"text/plain"
        assert (header(start, b"x-streamserve-prefill-lane"), header(start, b"x-streamserve-decode-lane")) == (
            b"a",
            b"b",
        )

    async def test_every_decision_of_a_request_is_named_in_order(self) -> None:
        start, _ = await call(HeadersMiddleware(deciding(("a", "b"), ("c", "d"))))
        assert header(start, b"x-streamserve-prefill-lane") == b"a,c"
        assert header(start, b"x-streamserve-decode-lane") == b"b,d"

    async def test_however_many_decisions_there_are_the_headers_stay_short(self) -> None:
        start, _ = await call(HeadersMiddleware(deciding(*[("prefill-0", "decode-0")] * 1000)))
        assert header(start, b"x-streamserve-prefill-lane") == b",".join([b"prefill-0"] * 64)
        assert header(start, b"x-streamserve-decode-lane") == b",".join([b"decode-0"] * 64)

    async def test_a_response_without_lanes_names_none(self) -> None:
        start, *_ = await call(HeadersMiddleware(reply))
        assert not any(name.startswith(b"x-streamserve") for name, _ in start["headers"])

    async def test_one_request_does_not_see_the_lanes_of_another(self) -> None:
        app = HeadersMiddleware(deciding(("a", "b")))
        for _ in range(2):
            start, _ = await call(app)
            assert header(start, b"x-streamserve-prefill-lane") == b"a"

    async def test_the_start_is_held_back_until_the_body_begins(self) -> None:
        sent: list[Message] = []
        seen: list[int] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in (START, MORE, LAST):
                await send(dict(message))
                seen.append(len(sent))

        async def send(message: Message) -> None:
            sent.append(message)

        await HeadersMiddleware(app)({"type": "http", "headers": []}, _never, send)
        assert seen == [0, 2, 3]
        assert [message["type"] for message in sent] == [START["type"], MORE["type"], LAST["type"]]

    async def test_a_failure_before_the_body_has_promised_nothing(self) -> None:
        sent: list[Message] = []

        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            await send(dict(START))
            raise RuntimeError("no first token")

        async def send(message: Message) -> None:
            sent.append(message)

        with pytest.raises(RuntimeError, match="no first token"):
            await HeadersMiddleware(failing)({"type": "http", "headers": []}, _never, send)
        assert sent == []

    async def test_the_clients_request_id_is_kept_and_returned(self) -> None:
        seen: list[Scope] = []
        start, *_ = await call(HeadersMiddleware(_noting(seen)), [(b"x-request-id", b"mine")])
        assert header(start, b"x-request-id") == b"mine"
        assert seen[0]["headers"] == [(b"x-request-id", b"mine")]

    @pytest.mark.parametrize("given", [[], [(b"x-request-id", b"")]])
    async def test_a_request_without_an_id_gets_one_that_the_application_sees(
        self, given: list[tuple[bytes, bytes]]
    ) -> None:
        seen: list[Scope] = []
        ids = {header((await call(HeadersMiddleware(_noting(seen)), given))[0], b"x-request-id") for _ in range(2)}
        assert len(ids) == 2
        assert {dict(scope["headers"])[b"x-request-id"] for scope in seen} == ids

    async def test_other_scopes_pass_untouched(self) -> None:
        await _assert_untouched(HeadersMiddleware)


class TestWishes:
    async def test_the_application_finds_what_the_headers_ask_for_and_the_next_request_does_not(self) -> None:
        seen: list[Wishes] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(await asyncio.create_task(wished()))
            await reply(scope, receive, send)

        async def wished() -> Wishes:
            return trace.wishes.get()

        await call(HeadersMiddleware(app), [(b"x-streamserve-priority", b"batch")])
        await call(HeadersMiddleware(app))
        assert seen == [Wishes(priority=10), Wishes()]

    async def test_what_cannot_be_meant_is_refused_before_anything_runs(self) -> None:
        seen: list[Scope] = []
        start, body = await call(HeadersMiddleware(_noting(seen)), [(b"x-streamserve-ttft-slo-ms", b"soon")])
        assert (start["status"], seen) == (400, [])
        assert header(start, b"x-request-id")
        assert json.loads(body["body"])["error"] == {
            "message": "header x-streamserve-ttft-slo-ms: 'soon' is not a number of milliseconds above 0",
            "type": "BadRequestError",
            "param": "x-streamserve-ttft-slo-ms",
            "code": 400,
        }

    async def test_a_decision_is_explained_when_asked_for(self) -> None:
        app = HeadersMiddleware(deciding(("a", "b"), ("c", "d")))
        start, _ = await call(app, [(b"x-streamserve-decision", b"1")])
        shown = json.loads(header(start, b"x-streamserve-decision") or b"null")
        assert [(each["prefill"], each["reason"]) for each in shown] == [
            ("a", "the test says so"),
            ("c", "the test says so"),
        ]
        for headers in ([], [(b"x-streamserve-decision", b"0")]):
            start, _ = await call(app, headers)
            assert header(start, b"x-streamserve-decision") is None

    async def test_a_response_without_decisions_explains_none(self) -> None:
        start, *_ = await call(HeadersMiddleware(reply), [(b"x-streamserve-decision", b"1")])
        assert header(start, b"x-streamserve-decision") is None


class TestBodyLimit:
    async def test_a_body_at_the_limit_passes(self) -> None:
        read: list[bytes] = []
        sent = await call(BodyLimitMiddleware(_reading(read), 6), [(b"content-length", b"6")], [b"abc", b"def"])
        assert sent == [START, MORE, LAST]
        assert b"".join(read) == b"abcdef"

    @pytest.mark.parametrize("declared", [b"7", b"99999999999999999999", b"-1", b"", b"six"])
    async def test_a_declared_length_that_is_too_large_or_none_is_refused_unread(self, declared: bytes) -> None:
        seen: list[Scope] = []
        _assert_refused(await call(BodyLimitMiddleware(_noting(seen), 6), [(b"content-length", declared)]), 6)
        assert seen == []

    @pytest.mark.parametrize("headers", [[], [(b"content-length", b"3")]])
    async def test_a_body_that_outgrows_the_limit_is_refused(self, headers: list[tuple[bytes, bytes]]) -> None:
        read: list[bytes] = []
        _assert_refused(
            await call(BodyLimitMiddleware(_reading(read), 6), headers, [b"abcd", b"efg", b"never read"]), 6
        )
        assert read == [b"abcd"]

    async def test_a_response_that_has_begun_is_broken_off(self) -> None:
        sent: list[Message] = []

        async def echo(scope: Scope, receive: Receive, send: Send) -> None:
            await send(dict(START))
            sent.append(await receive())

        with pytest.raises(Exception, match="outgrew the limit of 2 bytes"):
            await call(BodyLimitMiddleware(echo, 2), bodies=[b"abc"])
        assert sent == []

    async def test_an_application_that_makes_its_own_error_of_it_is_not_heard(self) -> None:
        async with _client(BodyLimitMiddleware(_validating(), 20)) as http:
            http.headers["content-type"] = "application/json"
            within = await http.post("/", content=_chunks(b'{"text": ', b'"short"}'))
            beyond = await http.post("/", content=_chunks(b'{"text": ', b'"rather too long"}'))
        assert (within.status_code, within.json()) == (200, "short")
        assert (beyond.status_code, beyond.json()["error"]["code"]) == (413, 413)
        assert "server.max_body_bytes" in beyond.json()["error"]["message"]

    async def test_a_refusal_has_a_request_id_as_well(self) -> None:
        start, _ = await call(HeadersMiddleware(BodyLimitMiddleware(reply, 1)), [(b"content-length", b"2")])
        assert start["status"] == 413
        assert header(start, b"x-request-id")

    async def test_other_scopes_pass_untouched(self) -> None:
        await _assert_untouched(lambda app: BodyLimitMiddleware(app, 0))


async def test_streamed_text_arrives_whole_through_both() -> None:
    async with _client(HeadersMiddleware(BodyLimitMiddleware(reply, 10))) as http:
        response = await http.post("/", content=b"question")
    assert (response.status_code, response.text) == (200, "one two")
    assert response.headers["x-request-id"]


def _client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


def _noting(seen: list[Scope]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await reply(scope, receive, send)

    return app


def _reading(read: list[bytes]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            read.append(message["body"])
        await reply(scope, receive, send)

    return app


def _validating() -> FastAPI:
    class Question(BaseModel):
        text: str

    app = FastAPI()

    @app.post("/")
    async def ask(question: Question) -> str:
        return question.text

    return app


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _never() -> Message:
    raise AssertionError("nobody asked for the body")


def _assert_refused(sent: list[Message], limit: int) -> None:
    start, body = sent
    assert start["status"] == 413
    assert header(start, b"content-length") == str(len(body["body"])).encode()
    assert f"larger than {limit} bytes".encode() in body["body"]


async def _assert_untouched(wrap: Callable[[ASGIApp], ASGIApp]) -> None:
    """The application gets the very same scope and callables."""
    seen: list[tuple[object, object, object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    async def send(message: Message) -> None:
        raise AssertionError("nobody sends anything")

    for kind in ("lifespan", "websocket"):
        scope: Scope = {"type": kind, "headers": []}
        await wrap(app)(scope, _never, send)
        assert seen.pop() == (scope, _never, send)
        assert scope == {"type": kind, "headers": []}
