"""`python -m streamserve.bench.fake_server --port PORT`: an OpenAI server without a model, for routers.

A chat completion streams `max_tokens` tokens in the form of vLLM's server, an event and a write each, all open streams
in common steps as an engine's batch. It costs next to nothing: the events are ready made, only their order is computed.
"""

import argparse
import asyncio
from typing import cast

import httptools
import msgspec
import uvloop

from streamserve.bench.instant import Steps

MODEL = "instant"
BACKLOG = 2048
HEAD = b"HTTP/1.1 %s\r\ncontent-type: %s\r\n"
OPENING = (HEAD % (b"200 OK", b"text/event-stream; charset=utf-8")) + b"transfer-encoding: chunked\r\n\r\n"
COMMON = b'"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
COMMON += b'"model":"%s",' % MODEL.encode()
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1700000000, "owned_by": "fake"}]}


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Asked(msgspec.Struct):
    """What is read of a request's body."""

    max_tokens: int = 16
    stream: bool = False
    stream_options: StreamOptions | None = None


def event(text: bytes) -> bytes:
    """A server-sent event as an HTTP chunk."""
    data = b"data: " + text + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta(content: bytes, finish: bytes = b"null") -> bytes:
    return event(
        b'{%s"choices":[{"index":0,"delta":{%s},"logprobs":null,"finish_reason":%s}]}' % (COMMON, content, finish)
    )


ROLE = delta(b'"role":"assistant","content":""')
TOKEN = delta(b'"content":" token"')
LAST = delta(b'"content":" token"', b'"length"')


def usage(tokens: int) -> bytes:
    counts = b'{"prompt_tokens":1,"total_tokens":%d,"completion_tokens":%d}' % (tokens + 1, tokens)
    return event(b'{%s"choices":[],"usage":%s}' % (COMMON, counts))


def whole(document: object) -> bytes:
    """A response that is no stream."""
    body = msgspec.json.encode(document)
    return HEAD % (b"200 OK", b"application/json") + b"content-length: %d\r\n\r\n" % len(body) + body


def completion(tokens: int) -> bytes:
    """The response to a request that does not stream."""
    message = {"role": "assistant", "content": " token" * tokens}
    counts = {"prompt_tokens": 1, "total_tokens": tokens + 1, "completion_tokens": tokens}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    return whole(
        {"id": "chatcmpl-0", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": counts}
    )


class Answer:
    """One stream on its way out."""

    def __init__(self, transport: asyncio.Transport, asked: Asked) -> None:
        self._transport = transport
        self._tokens = asked.max_tokens
        self._left = asked.max_tokens
        self._usage = asked.stream_options is not None and asked.stream_options.include_usage

    def step(self) -> bool:
        """One more token; false when it was the last or nobody listens."""
        if self._transport.is_closing():
            return False
        text = LAST if self._left == 1 else TOKEN
        if self._left == self._tokens:
            text = OPENING + ROLE + text
        self._left -= 1
        if not self._left:
            text += (usage(self._tokens) if self._usage else b"") + event(b"[DONE]") + b"0\r\n\r\n"
        self._transport.write(text)
        return bool(self._left)


class Connection(asyncio.Protocol):
    """One client's connection; it sends one request after the other."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports are none of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._path = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self._transport is not None
        if self._path == b"/v1/chat/completions":
            asked = msgspec.json.decode(self._body, type=Asked)
            if asked.stream:
                self._steps.join(Answer(self._transport, asked))
            else:
                self._transport.write(completion(asked.max_tokens))
        elif self._path == b"/v1/models":
            self._transport.write(whole(MODELS))
        elif self._path == b"/health":
            self._transport.write(whole({}))
        else:
            self._transport.write(HEAD % (b"404 Not Found", b"application/json") + b"content-length: 0\r\n\r\n")


async def listen(port: int, interval_s: float = 0.0) -> asyncio.Server:
    """A server on this port of the loopback interface, 0 = any; interval_s: from token to token."""
    steps = Steps(interval_s)
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(steps), "127.0.0.1", port, backlog=BACKLOG)


async def main(port: int, interval_s: float) -> None:
    async with await listen(port, interval_s) as server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interval-ms", type=float, default=0.0, help="from token to token")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.port, arguments.interval_ms / 1000))
