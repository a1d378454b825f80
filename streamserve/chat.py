"""A chat with a running OpenAI-compatible server: tokens as they arrive, and how fast they came."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console

from streamserve.console import error_line
from streamserve.errors import ConfigError, ServeError, SetupError, StreamServeError

HINT = "/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer"
_DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn; None leaves it to the server."""

    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """What one streamed chunk adds: text, and the output tokens so far where the server counts them."""

    text: str = ""
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and its timing; `ttft_s` and `last_s` count from the moment the request was sent."""

    text: str
    output_tokens: int
    ttft_s: float | None
    last_s: float
    lanes: tuple[str, str] | None = None
    """The (prefill, decode) lanes, where the server names them."""
    stopped: bool = False

    def summary(self) -> str:
        """TTFT, decode speed, length and lanes in one line; what is unknown is left out."""
        facts = [] if self.ttft_s is None else [f"TTFT {self.ttft_s:.2f} s"]
        if self.ttft_s is not None and self.output_tokens > 1 and self.last_s > self.ttft_s:
            facts.append(f"{(self.output_tokens - 1) / (self.last_s - self.ttft_s):.1f} tokens/s")
        facts.append(f"{self.output_tokens} token{'' if self.output_tokens == 1 else 's'}")
        if self.lanes:
            facts.append(" -> ".join(dict.fromkeys(self.lanes)))
        return ", ".join(facts) + (" (stopped)" if self.stopped else "")


def split_events(buffer: bytes) -> tuple[list[str], bytes]:
    """The data of each complete server-sent event at the start of `buffer`, and the unfinished rest."""
    events: list[str] = []
    data: list[str] = []
    rest_at = at = 0
    while (end := buffer.find(b"\n", at)) >= 0:
        line = buffer[at:end].removesuffix(b"\r").decode(errors="replace")
        at = end + 1
        if line:
            field, _, value = line.partition(":")
            if field == "data":
                data.append(value.removeprefix(" "))
            continue
        if data:
            events.append("\n".join(data))
            data = []
        rest_at = at
    return events, buffer[rest_at:]


def read_delta(data: str) -> Delta:
    """The delta in one event of a chat completion. Raises `ServeError` for an error event."""
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise ServeError(f"the server sent {data[:80]!r}, not JSON: is it an OpenAI-compatible server?") from error
    if not isinstance(chunk, dict) or "error" in chunk:
        raise ServeError(_message(chunk) or f"the server sent an error: {data[:200]}")
    choices = chunk.get("choices") or [{}]
    usage = chunk.get("usage") or {}
    return Delta(choices[0].get("delta", {}).get("content") or "", usage.get("completion_tokens"))


def deltas(chunks: Iterable[bytes]) -> Iterator[Delta]:
    """The deltas of a streamed answer, however the network cut it up. Raises `ServeError` if it ends early."""
    buffer = b""
    for chunk in chunks:
        events, buffer = split_events(buffer + chunk)
        for data in events:
            if data == _DONE:
                return
            yield read_delta(data)
    raise ServeError("the server closed the stream before the answer was complete: ask again")


def connect(url: str, api_key: str | None = None) -> httpx.Client:
    """A client of the server at `url`, with or without a trailing /v1. Raises `ConfigError`."""
    try:
        base = httpx.URL(url.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise ConfigError(f"--url {url!r} is not an address ({error}): write http://127.0.0.1:8000") from error
    if base.scheme not in ("http", "https") or not base.host:
        raise ConfigError(f"--url {url!r} is not an address: write http://127.0.0.1:8000")
    if api_key and not api_key.isascii():
        raise ConfigError("the API key has letters that no HTTP header can carry: give --api-key in ASCII")
    return httpx.Client(
        base_url=base,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(10, read=None),
        # A proxy named in the environment cannot reach this machine's own loopback address.
        trust_env=base.host not in ("127.0.0.1", "localhost", "::1"),
    )


def first_model(http: httpx.Client) -> str:
    """The first model that the server serves. Raises `SetupError`, `ServeError`."""
    with _plain_errors(http):
        response = http.get("/v1/models")
    if response.is_error:
        raise ServeError(error_message(response))
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise ServeError(f"{response.url} lists no model: is this an OpenAI-compatible server?") from error


class Conversation:
    """The turns so far with one model on one server."""

    def __init__(self, http: httpx.Client, model: str, sampling: Sampling, system: str | None = None) -> None:
        self._http = http
        self._model = model
        self._sampling = sampling
        self._system = [{"role": "system", "content": system}] if system else []
        self._turns: list[dict[str, str]] = []

    def reset(self) -> None:
        """Forget every turn; the system text stays."""
        self._turns.clear()

    def say(self, prompt: str, show: Callable[[str], None]) -> Answer:
        """Ask, hand the text to `show` as it arrives, and remember both turns; Ctrl-C stops the answer where it is.

        Raises `SetupError`, `ServeError`; the turn is then forgotten.
        """
        question = {"role": "user", "content": prompt}
        answer = self._ask([*self._system, *self._turns, question], show)
        if answer.text:
            self._turns += [question, {"role": "assistant", "content": answer.text}]
        return answer

    def _ask(self, messages: list[dict[str, str]], show: Callable[[str], None]) -> Answer:
        started = last = time.perf_counter()
        first: float | None = None
        texts: list[str] = []
        counted: int | None = None
        lanes: tuple[str, str] | None = None
        stopped = False
        try:
            with (
                _plain_errors(self._http),
                self._http.stream("POST", "/v1/chat/completions", json=self._body(messages)) as response,
            ):
                if response.is_error:
                    response.read()
                    raise ServeError(error_message(response))
                lanes = _lanes(response.headers)
                for delta in deltas(response.iter_bytes()):
                    counted = delta.output_tokens or counted
                    if delta.text:
                        last = time.perf_counter()
                        first = first or last
                        texts.append(delta.text)
                        show(delta.text)
        except KeyboardInterrupt:
            stopped = True
        ttft_s = None if first is None else first - started
        return Answer("".join(texts), counted or len(texts), ttft_s, last - started, lanes, stopped)

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        chosen = {"max_tokens": self._sampling.max_tokens, "temperature": self._sampling.temperature}
        return body | {key: value for key, value in chosen.items() if value is not None}


def answer_once(conversation: Conversation, prompt: str, out: Console, notes: Console) -> Answer:
    """Ask one thing; the answer goes to `out` as it arrives, its summary to `notes`. Raises as `Conversation.say`."""
    ends_line = True

    def show(text: str) -> None:
        nonlocal ends_line
        out.out(text, end="", highlight=False)
        ends_line = text.endswith("\n")

    try:
        answer = conversation.say(prompt, show)
    finally:
        if not ends_line:
            out.out("")
    notes.print(answer.summary(), style="dim", markup=False, highlight=False)
    return answer


def converse(conversation: Conversation, read: Callable[[], str], out: Console, notes: Console) -> None:
    """Talk until `read` raises EOFError or /exit is typed; a failed answer is one line, and the talk goes on."""
    notes.print(HINT, style="dim", highlight=False)
    while True:
        try:
            line = read().strip()
        except EOFError:
            notes.print()
            return
        except KeyboardInterrupt:
            notes.print()
            continue
        if line == "/exit":
            return
        if line == "/reset":
            conversation.reset()
            notes.print("forgotten", style="dim")
        elif line:
            try:
                answer_once(conversation, line, out, notes)
            except StreamServeError as error:
                notes.print(error_line(error), soft_wrap=True)


def error_message(response: httpx.Response) -> str:
    """What an error response says, in one line, with the way out where there is one."""
    try:
        said = _message(response.json())
    except ValueError:
        said = " ".join(response.text.split())[:200]
    text = f"the server answered {response.status_code}: {said or response.reason_phrase}"
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return f"{text}; give --api-key or set STREAMSERVE_API_KEY"
    return text


def _message(body: object) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(said).split()) if said else ""


def _lanes(headers: httpx.Headers) -> tuple[str, str] | None:
    prefill, decode = headers.get("x-streamserve-prefill-lane"), headers.get("x-streamserve-decode-lane")
    return (prefill, decode) if prefill and decode else None


@contextmanager
def _plain_errors(http: httpx.Client) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        where = str(http.base_url).rstrip("/")
        raise SetupError(f"no server answers at {where}: start one with `streamserve serve`, or give --url") from error
    except httpx.TransportError as error:
        raise ServeError(f"the connection to the server broke ({error or type(error).__name__}): ask again") from error
