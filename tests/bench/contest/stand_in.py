"""A small OpenAI server as a process: `python stand_in.py PORT [lanes]`; what it does is in the prompt.

`hang` never ends, `refuse` answers 500, `break` ends after two tokens, all else brings as many tokens as asked for.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock
from typing import Any

TOKEN_S = 0.005


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lanes = False
    lock = Lock()
    pause = Event()
    open_streams = 0
    closed_by_client = 0
    asked: list[tuple[float, str]] = []

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer({})
        elif self.path == "/v1/models":
            self.answer({"data": [{"id": "stand-in"}]})
        elif self.path == "/seen":
            self.answer({"open": self.open_streams, "closed": self.closed_by_client, "asked": self.asked})
        elif self.path == "/streamserve/lanes" and self.lanes:
            tokens = len(self.asked)
            totals = {"output_tokens_total": 10 * tokens, "accepted_tokens_total": 6 * tokens}
            lane = {"lane": "lane-0", "running": self.open_streams, "waiting": 0, "draft_tokens_total": 12 * tokens}
            self.answer({"lanes": [lane | totals]})
        else:
            self.answer({}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"][0]["text"]
        with self.lock:
            self.asked.append((time.monotonic(), prompt))
        if prompt == "refuse":
            self.answer({"error": "no"}, 500)
            return
        type(self).open_streams += 1
        try:
            self.stream(prompt, body["max_completion_tokens"])
        except (BrokenPipeError, ConnectionResetError):
            type(self).closed_by_client += 1
        finally:
            type(self).open_streams -= 1
            self.close_connection = True

    def stream(self, prompt: str, tokens: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.piece({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for number in range(2 if prompt == "break" else tokens):
            self.piece({"choices": [{"delta": {"content": f"{number} "}}]})
            self.pause.wait(TOKEN_S)
        while prompt == "hang":
            self.write(": still here\n\n")
            self.pause.wait(TOKEN_S)
        if prompt != "break":
            self.piece({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}})
            self.write("data: [DONE]\n\n")

    def piece(self, data: dict[str, Any]) -> None:
        self.write(f"data: {json.dumps({'id': 'x', **data})}\n\n")

    def write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def answer(self, data: Any, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    Handler.lanes = "lanes" in sys.argv[2:]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
