"""The chat client against a small server in this process."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import httpx
import pytest
from rich.console import Console

from streamserve.chat import (
    Answer,
    Conversation,
    Sampling,
    answer_once,
    connect,
    converse,
    first_model,
)
from streamserve.errors import ConfigError, ServeError, SetupError

LANES = {"x-streamserve-prefill-lane": "lane-0", "x-streamserve-decode-lane": "lane-1"}


def chunk(text: str) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode()


USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 7}}\n\n'
DONE = b"data: [DONE]\n\n"


class Server(ThreadingHTTPServer):
    """Answers each chat request with the next reply given: (status, body); remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.replies: list[tuple[int, bytes]] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Exchange(BaseHTTPRequestHandler):
    """One request to `Server`."""

    server: Server

    def do_GET(self) -> None:
        found = self.path == "/v1/models"
        self._reply(200 if found else 404, b'{"data": [{"id": "tiny"}]}', "application/json")

    def do_POST(self) -> None:
        self.server.headers.append(self.headers["Authorization"])
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, body = self.server.replies.pop(0)
        self._reply(status, body, "text/event-stream" if status == 200 else "application/json")

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""

    def _reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **LANES}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with connect(server.url) as client:
        yield client


def ask(http: httpx.Client, prompt: str = "Hi") -> tuple[Answer, list[str]]:
    shown: list[str] = []
    return Conversation(http, "tiny", Sampling()).say(prompt, shown.append), shown


@pytest.mark.parametrize(
    ("answer", "summary"),
    [
        (Answer("a", 11, 0.5, 1.5, ("lane-0", "lane-1")), "TTFT 0.50 s, 10.0 tokens/s, 11 tokens, lane-0 -> lane-1"),
        (Answer("a", 1, 0.5, 0.5, ("lane-0", "lane-0")), "TTFT 0.50 s, 1 token, lane-0"),
        (Answer("", 0, None, 0.0, None, stopped=True), "0 tokens (stopped)"),
    ],
)
def test_a_summary_leaves_out_what_is_unknown(answer: Answer, summary: str) -> None:
    assert answer.summary() == summary


def test_text_is_shown_as_it_arrives_and_counted_by_the_server(server: Server, http: httpx.Client) -> None:
    server.replies = [(200, chunk("Hel") + chunk("lo") + USAGE + DONE)]
    answer, shown = ask(http)
    assert shown == ["Hel", "lo"]
    assert (answer.text, answer.output_tokens, answer.lanes) == ("Hello", 7, ("lane-0", "lane-1"))
    assert answer.ttft_s is not None
    assert 0 < answer.ttft_s <= answer.last_s


def test_the_request_holds_system_history_and_sampling(server: Server, http: httpx.Client) -> None:
    server.replies = [(200, chunk("one") + DONE), (200, chunk("two") + DONE), (200, chunk("three") + DONE)]
    conversation = Conversation(http, "tiny", Sampling(max_tokens=5, temperature=0.0), system="Be brief.")
    conversation.say("first", lambda text: None)
    conversation.say("second", lambda text: None)
    conversation.reset()
    conversation.say("third", lambda text: None)
    texts = [[message["content"] for message in asked["messages"]] for asked in server.asked]
    assert texts == [
        ["Be brief.", "first"],
        ["Be brief.", "first", "one", "second"],
        ["Be brief.", "third"],
    ]
    first = server.asked[0]
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("tiny", 5, 0.0)
    assert first["stream_options"] == {"include_usage": True}


def test_what_is_not_chosen_is_left_to_the_server(server: Server, http: httpx.Client) -> None:
    server.replies = [(200, DONE)]
    ask(http)
    assert not {"max_tokens", "temperature"} & server.asked[0].keys()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (429, b'{"error": {"message": "the queue is full"}}', "the server answered 429: the queue is full"),
        (401, b'{"error": "Unauthorized"}', "401: Unauthorized; give --api-key or set STREAMSERVE_API_KEY"),
        (502, b"<h1>Bad\ngateway</h1>", "502: <h1>Bad gateway</h1>"),
        (500, b"", "500: Internal Server Error"),
    ],
)
def test_an_error_response_is_one_line(
    server: Server, http: httpx.Client, status: int, body: bytes, message: str
) -> None:
    server.replies = [(status, body)]
    with pytest.raises(ServeError) as caught:
        ask(http)
    assert message in str(caught.value)


def test_an_error_in_the_stream_forgets_the_turn(server: Server, http: httpx.Client) -> None:
    failure = b'data: {"error": {"message": "lane-1 died"}}\n\n'
    server.replies = [(200, chunk("par") + failure), (200, chunk("ok") + DONE)]
    conversation = Conversation(http, "tiny", Sampling())
    with pytest.raises(ServeError, match="lane-1 died"):
        conversation.say("first", lambda text: None)
    conversation.say("again", lambda text: None)
    assert [message["content"] for message in server.asked[1]["messages"]] == ["again"]


def test_ctrl_c_stops_the_answer_and_keeps_what_came(server: Server, http: httpx.Client) -> None:
    server.replies = [(200, chunk("one ") + chunk("two ") + chunk("three") + DONE), (200, chunk("fine") + DONE)]
    conversation = Conversation(http, "tiny", Sampling())

    def stop_at_two(text: str) -> None:
        if text == "two ":
            raise KeyboardInterrupt

    answer = conversation.say("count", stop_at_two)
    assert (answer.text, answer.stopped, answer.output_tokens) == ("one two ", True, 2)
    conversation.say("go on", lambda text: None)
    assert server.asked[1]["messages"][1] == {"role": "assistant", "content": "one two "}


def test_the_key_is_sent(server: Server) -> None:
    server.replies = [(200, DONE)]
    with connect(server.url, "secret") as http:
        ask(http)
    assert server.headers == ["Bearer secret"]


def test_a_turn_without_an_answer_is_not_remembered(server: Server, http: httpx.Client) -> None:
    server.replies = [(200, DONE), (200, DONE)]
    conversation = Conversation(http, "tiny", Sampling())
    conversation.say("first", lambda text: None)
    conversation.say("second", lambda text: None)
    assert [message["content"] for message in server.asked[1]["messages"]] == ["second"]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_in_v1(server: Server, suffix: str) -> None:
    with connect(server.url + suffix) as http:
        assert first_model(http) == "tiny"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"write http://127\.0\.0\.1:8000"):
        connect(url)


def test_a_key_that_no_header_can_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="--api-key in ASCII"):
        connect("http://127.0.0.1:1", "clé")


def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with connect(server.url) as http:
        assert first_model(http) == "tiny"


def test_no_server_is_one_line_that_says_how_to_start_one() -> None:
    with Server() as closed:
        url = closed.url
    with (
        connect(url) as http,
        pytest.raises(SetupError, match=f"no server answers at {url}: start one with .streamserve serve"),
    ):
        first_model(http)


def test_an_answer_cut_off_by_the_connection_is_one_line() -> None:
    def cut(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("peer closed connection")

    http = httpx.Client(base_url="http://server", transport=httpx.MockTransport(cut))
    with http, pytest.raises(ServeError, match="peer closed connection"):
        ask(http)


def talk(http: httpx.Client, lines: list[str | BaseException]) -> tuple[str, str]:
    """What a talk prints to (stdout, stderr) when the reader types these lines, then Ctrl-D."""
    typed = iter([*lines, EOFError()])

    def read() -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    out, notes = StringIO(), StringIO()
    converse(Conversation(http, "tiny", Sampling()), read, Console(file=out), Console(file=notes, width=300))
    return out.getvalue(), notes.getvalue()


def test_a_talk_goes_on_after_an_error_and_ends_with_ctrl_d(server: Server, http: httpx.Client) -> None:
    server.replies = [(503, b'{"error": {"message": "no lane is ready"}}'), (200, chunk("Hello") + USAGE + DONE)]
    out, notes = talk(http, ["Hi", "  ", KeyboardInterrupt(), "Hi again"])
    assert out == "Hello\n"
    assert "error: the server answered 503: no lane is ready" in notes
    assert "7 tokens, lane-0 -> lane-1" in notes


def test_reset_forgets_and_exit_ends(server: Server, http: httpx.Client) -> None:
    server.replies = [(200, chunk("one") + DONE), (200, chunk("two") + DONE)]
    talk(http, ["first", "/reset", "second", "/exit", "never asked"])
    assert [len(asked["messages"]) for asked in server.asked] == [1, 1]


def test_one_answer_ends_with_one_line_break_and_a_summary_apart(server: Server, http: httpx.Client) -> None:
    server.replies = [(200, chunk("[bold]a[/bold]\n") + DONE)]
    out, notes = StringIO(), StringIO()
    conversation = Conversation(http, "tiny", Sampling())
    answer_once(conversation, "Hi", Console(file=out), Console(file=notes))
    assert out.getvalue() == "[bold]a[/bold]\n"
    assert notes.getvalue().startswith("TTFT ")
