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

TOKENS = 60


class Reader:
    """One streaming client: counts its tokens and says when the first has come."""

    def __init__(self, server: Server, prompt: str, **options: Any) -> None:
        self.text = ""
        self.first = Event()
        self._stream = server.openai.completions.create(
            model=server.model,
            prompt=prompt,
            max_tokens=TOKENS,
            stream=True,
            extra_body={"ignore_eos": True},
            **options,
        )

    def read(self) -> str:
        for chunk in self._stream:
            self.text += chunk.choices[0].text
            self.first.set()
        return self.text


def kill(server: Server, lane: str) -> None:
    os.kill(server.lanes()[lane]["pid"], signal.SIGKILL)


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


def start(pool: ThreadPoolExecutor, server: Server, **options: Any) -> tuple[Reader, Future[str]]:
    reader = Reader(server, "Once upon a time there was a king", **options)
    return reader, pool.submit(reader.read)


def test_a_killed_decode_lane(server: Server) -> None:
    """What was streaming greedily goes on elsewhere; what cannot gets an error event; the lane comes back."""
    before = server.restarts()
    undisturbed = Reader(server, "Once upon a time there was a king", temperature=0).read()
    with ThreadPoolExecutor(4) as pool:
        resumable, resumed = start(pool, server, temperature=0)
        stateful, broken = start(pool, server, temperature=1.0, seed=3)
        whole = pool.submit(
            server.openai.completions.create,
            model=server.model,
            prompt="Once upon a time",
            max_tokens=TOKENS,
            temperature=1.0,
            seed=3,
            extra_body={"ignore_eos": True},
        )
        assert resumable.first.wait(30) and stateful.first.wait(30)
        kill(server, "lane-1")
        assert len(resumed.result()) > 0.8 * len(undisturbed)
        with pytest.raises(openai.APIError, match="lane-1 is gone.*send the request again"):
            broken.result()
        assert stateful.text, "tokens came before the error"
        assert whole.result().usage.completion_tokens == TOKENS, "nothing of it was shown, so it could begin anew"
        # A request that comes while the lane is down runs on the other one.
        during = server.openai.completions.create(model=server.model, prompt="One two", max_tokens=4, temperature=0)
        assert during.usage.completion_tokens == 4
    recovered(server, {"lane-1": before["lane-1"] + 1})
    assert server.restarts()["lane-0"] == before["lane-0"], "the other lane was not touched"
    server.wait_idle()


def test_a_killed_prefill_lane_costs_no_request(server: Server) -> None:
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
        wait_until(lambda: server.lanes()["lane-0"]["dispatched"]["prefill_requests"] > 0, 10)
        kill(server, "lane-0")
        assert [future.result().usage.completion_tokens for future in asked] == [4] * 4
    recovered(server, {"lane-0": before["lane-0"] + 1})
    assert server.restarts()["lane-1"] == before["lane-1"]
    server.wait_idle()


def test_the_pair_works_as_before_after_both_lanes_were_replaced(server: Server) -> None:
    response = server.openai.completions.with_raw_response.create(
        model=server.model, prompt="One two three", max_tokens=4, temperature=0
    )
    assert response.headers["x-streamserve-prefill-lane"] == "lane-0"
    assert response.headers["x-streamserve-decode-lane"] == "lane-1"
