"""A real server in a process of its own, as a user would start it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import openai
import psutil

from streamserve.lanes.vllm.environment import free_port

START_S = 240.0
"""A generous bound for a start on a busy machine; the tests measure what is asserted elsewhere."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    openai: Any
    """OpenAI's client; untyped, since what its answers may lack is what the tests look at."""

    @property
    def model(self) -> str:
        name: str = self.get("/v1/models")["data"][0]["id"]
        return name

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}", timeout=30).raise_for_status().json()

    def tokenize(self, text: str) -> list[int]:
        ask = {"model": self.model, "prompt": text, "add_special_tokens": False}
        tokens: list[int] = httpx.post(f"{self.url}/tokenize", json=ask, timeout=30).raise_for_status().json()["tokens"]
        return tokens

    def lanes(self) -> dict[str, dict[str, Any]]:
        """Signals of every lane by its id."""
        return {lane["lane"]: lane for lane in self.get("/streamserve/lanes")["lanes"]}

    def restarts(self) -> dict[str, int]:
        """How often each lane has been restarted."""
        return {name: lane["restarts"] for name, lane in self.lanes().items()}

    def idle(self) -> bool:
        """Whether no lane holds a request or a KV block and the scheduler counts none."""
        return all(
            lane["state"] == "ready"
            and lane["running"] == lane["waiting"] == lane["kv_used"] == 0
            and not any(lane["dispatched"].values())
            for lane in self.lanes().values()
        )

    def wait_idle(self, within_s: float = 60.0) -> None:
        """Wait until `idle`; KV that nobody fetched is freed by a lease of 30 s."""
        wait_until(self.idle, within_s, lambda: f"still busy: {json.dumps(self.lanes())}")

    def processes(self) -> list[psutil.Process]:
        """The server's process and everything below it."""
        front = psutil.Process(self.process.pid)
        return [front, *front.children(recursive=True)]


def wait_until(condition: Any, within_s: float, explain: Any = lambda: "") -> None:
    """Poll a condition of another process, which offers no event to wait for."""
    deadline_s = time.monotonic() + within_s
    pause = Event()
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {explain()}"
        pause.wait(0.1)


def launch(log: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start `streamserve serve` on a free port without waiting for it."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamserve", "serve", "--port", str(port), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "COLUMNS": "200"},
            start_new_session=True,
        )
    return process, f"http://127.0.0.1:{port}"


@contextmanager
def running(log: Path, *arguments: str) -> Iterator[Server]:
    """A server that is ready; stopped at the end, with everything it started."""
    process, url = launch(log, *arguments)
    try:
        wait_until(lambda: _answers(process, url, log), START_S, log.read_text)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, timeout=120) as client:
            yield Server(process, url, log, client)
    finally:
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, left = psutil.wait_procs(below, timeout=5)
        left = [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
        for orphan in left:
            orphan.kill()
        assert not left, f"the server left processes behind: {left}\n{log.read_text()}"


def _answers(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, f"the server ended with {process.returncode}:\n{log.read_text()}"
    try:
        return httpx.get(f"{url}/health", timeout=0.5).status_code == 200
    except httpx.TransportError:
        return False
