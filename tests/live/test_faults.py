"""Lanes that are killed in the middle of traffic."""

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import openai
import pytest

from tests.live.server import Server, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

TOKENS = 100


class Reader:
    """One streaming client: counts its tokens and says when the first has come."""

    def __init__(self, server: Server, prompt: str, **options: Any) -> None:
        self.text = ""
        self.tokens = 0
        self.first = Event()
        self._stream = server.openai.completions.create(
            model=server.model,
            prompt=prompt,
            max_tokens=TOKENS,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
            **options,
        )

    @property
    def decode_lane(self) -> str:
        lane: str = self._stream.response.headers["x-streamserve-decode-lane"]
        return lane

    def read(self) -> str:
        for chunk in self._stream:
            if chunk.usage:
                self.tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                self.text += choice.text
                self.first.set()
        return self.text


def kill(server: Server, lane: str, by: signal.Signals = signal.SIGKILL) -> None:
    os.kill(server.lanes()[lane]["pid"], by)


def recovered(server: Server, restarts: dict[str, int]) -> None:
    """Wait until every lane is ready and those that died have been restarted."""
    wait_until(
        lambda: all(
            lane["state"] == "ready" and lane["restarts"] >= restarts.get(name, 0)
            for name, lane in server.lanes().items()
        ),
        120,
        lambda: str(server.lanes()),
    )


def beside(lane: str) -> str:
    """The other lane."""
    return {"lane-0": "lane-1", "lane-1": "lane-0"}[lane]


def prefilling(server: Server) -> list[str]:
    """The lanes that have prompts to compute."""
    return [name for name, lane in server.lanes().items() if lane["dispatched"]["prefill_requests"]]


def start(pool: ThreadPoolExecutor, server: Server, **options: Any) -> tuple[Reader, Future[str]]:
    reader = Reader(server, "Once upon a time there was a king", **options)
    return reader, pool.submit(reader.read)


def test_a_killed_decode_lane(server: Server) -> None:
    """What was streaming greedily goes on elsewhere; what cannot gets an error event; the lane comes back."""
    before = server.restarts()
    with ThreadPoolExecutor(8) as pool:
        resumable = [start(pool, server, temperature=0) for _ in range(4)]
        stateful, broken = start(pool, server, temperature=1.0, seed=3)
        victim = stateful.decode_lane
        whole = pool.submit(
            server.openai.completions.create,
            model=server.model,
            prompt="Once upon a time",
            max_tokens=TOKENS,
            temperature=1.0,
            seed=3,
            extra_body={"ignore_eos": True},
        )
        assert all(reader.first.wait(30) for reader in (stateful, *(reader for reader, _ in resumable)))
        hit = [resumed for reader, resumed in resumable if reader.decode_lane == victim]
        assert any(not resumed.done() for resumed in hit), "FlowGuard spreads requests over both lanes"
        kill(server, victim)
        assert all(resumed.result() for _, resumed in resumable)
        assert [reader.tokens for reader, _ in resumable] == [TOKENS] * len(resumable)
        with pytest.raises(openai.APIError, match=f"{victim} is gone.*send the request again"):
            broken.result()
        assert stateful.text, "tokens came before the error"
        assert whole.result().usage.completion_tokens == TOKENS, "nothing of it was shown, so it could begin anew"
        # A request that comes while the lane is down runs on the other one.
        during = server.openai.completions.create(model=server.model, prompt="One two", max_tokens=4, temperature=0)
        assert during.usage.completion_tokens == 4
    recovered(server, {victim: before[victim] + 1})
    assert server.restarts()[beside(victim)] == before[beside(victim)], "the other lane was not touched"
    server.wait_idle()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGSTOP], ids=["told to end", "hangs"])
def test_a_decode_lane_that_serves_no_more(server: Server, by: signal.Signals) -> None:
    """On SIGTERM vLLM's engine ends its requests as aborted: that is a loss, not an answer.

    One that hangs still has a process and sockets: what it serves goes on elsewhere once it was silent for too long.
    """
    before = server.restarts()
    with ThreadPoolExecutor(4) as pool:
        readers = [start(pool, server, temperature=0) for _ in range(4)]
        victim = readers[0][0].decode_lane
        assert all(reader.first.wait(30) for reader, _ in readers)
        assert not readers[0][1].done()
        kill(server, victim, by)
        assert all(text.result() for _, text in readers)
    assert [reader.tokens for reader, _ in readers] == [TOKENS] * len(readers)
    recovered(server, {victim: before[victim] + 1})
    assert server.restarts()[beside(victim)] == before[beside(victim)], "the other lane was not touched"
    server.wait_idle()


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
def test_a_prefill_lane_that_ends_costs_no_request(server: Server, by: signal.Signals) -> None:
    before = server.restarts()
    prompt = "Tell me everything about kings. " * 100
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(
                server.openai.completions.create,
                model=server.model,
                prompt=f"{number} {prompt}",
                max_tokens=4,
                temperature=0,
                extra_body={"ignore_eos": True},
            )
            for number in range(4)
        ]
        busy: list[str] = []

        def seen() -> bool:
            busy[:] = prefilling(server)
            return bool(busy)

        wait_until(seen, 10)
        victim = busy[0]
        kill(server, victim, by)
        assert [future.result().usage.completion_tokens for future in asked] == [4] * 4
    recovered(server, {victim: before[victim] + 1})
    assert server.restarts()[beside(victim)] == before[beside(victim)]
    server.wait_idle()


def test_a_lane_that_came_back_serves_while_the_other_is_away(server: Server) -> None:
    for victim in ("lane-0", "lane-1"):
        restarts = server.restarts()[victim]
        kill(server, victim)
        response = server.openai.completions.with_raw_response.create(
            model=server.model, prompt="One two three", max_tokens=4, temperature=0
        )
        assert response.parse().usage.completion_tokens == 4
        # Several are named where the first attempt still went to the lane that had just died.
        assert response.headers["x-streamserve-decode-lane"].split(",")[-1] == beside(victim)
        recovered(server, {victim: restarts + 1})
    server.wait_idle()
