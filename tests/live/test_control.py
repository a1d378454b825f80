"""What clients and operators may steer on running lanes, and what can be seen of it: depth, wishes, metrics."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import cycle
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.server import Server, wait_until

pytestmark = pytest.mark.live

TOKENS = 24
LANES = ("lane-0", "lane-1")
REFRAIN = "The wheels on the bus go round and round, round and round, round and round. " * 3
"""Text that a small model repeats, so that drafts are found in it."""
SWITCH_S = 0.1


@pytest.fixture(autouse=True)
def own_depth(server: Server) -> Iterator[None]:
    """The lanes are handed on with the control they came with."""
    yield
    everywhere(server, "default")


def set_depth(server: Server, lane: str, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server.url}/streamserve/lanes/{lane}/depth", content=content, timeout=30)


def everywhere(server: Server, control: str) -> None:
    """The same control on every lane."""
    for lane in LANES:
        set_depth(server, lane, {"control": control}).raise_for_status()


def in_force(server: Server) -> dict[str, str]:
    return {name: lane["depth"]["control"] for name, lane in server.lanes().items()}


def drafted(server: Server) -> int:
    """Draft tokens verified so far, once nothing is running."""
    server.wait_idle()
    return sum(lane["draft_tokens_total"] for lane in server.lanes().values())


def ask(server: Server, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
    """One completion of the refrain, to its last token."""
    asked = {"model": server.model, "prompt": REFRAIN, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    return httpx.post(f"{server.url}/v1/completions", json={**asked, **body}, headers=headers, timeout=60)


def tokens(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    count: int = response.json()["usage"]["completion_tokens"]
    return count


def series(server: Server) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Samples of our own series by their name."""
    text = httpx.get(f"{server.url}/metrics", follow_redirects=True, timeout=30).text
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("streamserve:"):
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


class TestDepth:
    def test_a_control_is_answered_seen_and_taken_back(self, server: Server) -> None:
        own = in_force(server)
        answer = set_depth(server, "lane-1", {"control": "fixed:3", "ttl_s": 30}).raise_for_status().json()
        assert (answer["lane"], answer["depth"]["control"], answer["expires_in_s"]) == ("lane-1", "fixed:3", 30)
        wait_until(lambda: in_force(server) == {**own, "lane-1": "fixed:3"}, 5, lambda: str(in_force(server)))
        set_depth(server, "lane-1", {"mode": "off"}).raise_for_status()
        wait_until(lambda: in_force(server) == {**own, "lane-1": "off"}, 5, lambda: str(in_force(server)))
        set_depth(server, "lane-1", {"control": "default"}).raise_for_status()
        wait_until(lambda: in_force(server) == own, 5, lambda: str(in_force(server)))

    def test_a_control_that_is_not_renewed_expires(self, server: Server) -> None:
        own = in_force(server)
        set_depth(server, "lane-0", {"control": "fixed:3", "ttl_s": 1}).raise_for_status()
        wait_until(lambda: in_force(server)["lane-0"] == "fixed:3", 5)
        wait_until(lambda: in_force(server) == own, 5, lambda: str(in_force(server)))

    @pytest.mark.parametrize(
        ("lane", "body", "status", "said"),
        [
            ("lane-7", {"control": "off"}, 404, "lane-7"),
            ("lane-0", b"fixed:3", 400, "not JSON"),
            ("lane-0", {"control": "deep"}, 422, "fixed:3"),
            ("lane-0", {"control": "fixed:-1"}, 422, "depth"),
            ("lane-0", {"mode": "fixed"}, 422, "depth"),
            ("lane-0", {"mode": "specustream", "price": "dear"}, 422, "price"),
            ("lane-0", {"mode": "off", "ttl_s": 0}, 422, "ttl_s"),
            ("lane-0", {"dept": 3}, 422, "dept"),
        ],
    )
    def test_nonsense_changes_nothing(self, server: Server, lane: str, body: object, status: int, said: str) -> None:
        own = in_force(server)
        answer = set_depth(server, lane, body)
        assert answer.status_code == status
        assert said in answer.json()["error"]["message"]
        assert in_force(server) == own

    def test_it_acts_on_what_is_drafted(self, server: Server) -> None:
        everywhere(server, "off")
        before = drafted(server)
        assert tokens(ask(server)) == TOKENS
        assert drafted(server) == before
        everywhere(server, "fixed:3")
        assert tokens(ask(server)) == TOKENS
        assert drafted(server) > before

    def test_switching_during_traffic_disturbs_no_stream(self, server: Server) -> None:
        """Exactness under any schedule is asserted in float32, in test_depth."""
        before, restarts = drafted(server), server.restarts()
        controls = cycle(["fixed:8", "off", "fixed:1", "specustream:0", "default", "target_acceptance:0.3"])

        def stream(number: int) -> int:
            chunks = server.openai.completions.create(
                model=server.model,
                prompt=f"{number} {REFRAIN}",
                max_tokens=2 * TOKENS,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            (used,) = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
            return int(used)

        switches = 0
        with ThreadPoolExecutor(8) as pool:
            running = {pool.submit(stream, number) for number in range(8)}
            streams = list(running)
            while running:
                everywhere(server, next(controls))
                switches += 1
                _, running = wait(running, SWITCH_S, FIRST_COMPLETED)
            assert [future.result() for future in streams] == [2 * TOKENS] * 8
        assert switches > 3, "the streams were over before they could be disturbed"
        assert drafted(server) > before
        assert server.restarts() == restarts


class TestCapOfARequest:
    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({"x-streamserve-max-depth": "0"}, {}),
            ({}, {"vllm_xargs": {"max_depth": 0}}),
            ({"x-streamserve-max-depth": "0"}, {"vllm_xargs": {"max_depth": 8}}),
        ],
        ids=["header", "body", "the header wins"],
    )
    def test_at_zero_nothing_is_drafted(self, server: Server, headers: dict[str, str], body: dict[str, Any]) -> None:
        everywhere(server, "fixed:3")
        before = drafted(server)
        assert tokens(ask(server, headers, **body)) == TOKENS
        assert drafted(server) == before

    def test_samplings_that_forbid_drafts_are_served_without(self, server: Server) -> None:
        everywhere(server, "fixed:3")
        before = drafted(server)
        (token,) = server.tokenize(" cat")
        assert tokens(ask(server, logit_bias={str(token): 1})) == TOKENS
        assert tokens(ask(server, temperature=0.1, min_p=0.2)) == TOKENS
        assert tokens(ask(server, temperature=0.1, seed=5)) == TOKENS
        assert drafted(server) == before

    def test_a_logit_bias_is_obeyed_beside_requests_that_speculate(self, server: Server) -> None:
        (token,) = server.tokenize(" cat")
        everywhere(server, "fixed:3")
        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(ask, server, max_tokens=2 * TOKENS) for _ in range(3)]
            biased = ask(server, logit_bias={str(token): 100})
            assert [tokens(other.result()) for other in others] == [2 * TOKENS] * 3
        assert biased.json()["choices"][0]["text"] == " cat" * TOKENS

    def test_min_p_is_obeyed(self, server: Server) -> None:
        """At 1 only the likeliest token is left, however hot the sampling."""
        everywhere(server, "fixed:3")
        greedy = ask(server, max_tokens=4).json()["choices"][0]["text"]
        assert ask(server, max_tokens=4, temperature=2, min_p=1.0).json()["choices"][0]["text"] == greedy


class TestWishes:
    def test_priority_latencies_and_depth_are_taken(self, server: Server) -> None:
        wishes = {
            "x-streamserve-priority": "interactive",
            "x-streamserve-ttft-slo-ms": "500",
            "x-llm-d-slo-tpot-ms": "200",
            "x-streamserve-max-depth": "2",
        }
        assert tokens(ask(server, wishes)) == TOKENS

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            ("x-streamserve-priority", "urgent"),
            ("x-streamserve-ttft-slo-ms", "0"),
            ("x-streamserve-tpot-slo-ms", "fast"),
            ("x-streamserve-max-depth", "-1"),
            ("x-streamserve-decision", "perhaps"),
        ],
    )
    def test_what_cannot_be_meant_is_a_400_that_names_it(self, server: Server, header: str, value: str) -> None:
        answer = ask(server, {header: value})
        error = answer.json()["error"]
        assert answer.status_code == error["code"] == 400
        assert error["param"] == header and header in error["message"] and value in error["message"]

    @pytest.mark.parametrize("depth", [-1, 1.5, "deep"])
    def test_a_cap_in_the_body_that_is_no_depth(self, server: Server, depth: object) -> None:
        answer = ask(server, vllm_xargs={"max_depth": depth})
        assert answer.status_code == 400
        assert "max_depth" in answer.json()["error"]["message"]

    def test_a_decision_is_explained_when_asked_for(self, server: Server) -> None:
        answer = ask(server, {"X-StreamServe-Decision": "1", "x-streamserve-max-depth": "2"})
        (decision,) = json.loads(answer.headers["x-streamserve-decision"])
        pair = (answer.headers["x-streamserve-prefill-lane"], answer.headers["x-streamserve-decode-lane"])
        assert (decision["prefill"], decision["decode"]) == pair
        assert decision["router"] == "flowguard" and decision["reason"]
        assert decision["prediction"]["e2e_s"] > 0
        assert {candidate["decode"] for candidate in decision["candidates"]} <= set(LANES)
        assert pair in [(candidate["prefill"], candidate["decode"]) for candidate in decision["candidates"]]

    def test_no_decision_is_explained_unasked(self, server: Server) -> None:
        answer = ask(server)
        assert answer.headers["x-streamserve-decode-lane"] in LANES
        assert "x-streamserve-decision" not in answer.headers


class TestMetrics:
    def test_every_lane_is_there_under_its_label(self, server: Server) -> None:
        found = series(server)
        for name in ("lane_state", "dispatched_requests", "steps_total", "depth_mode", "step_cost_seconds"):
            assert {labels["lane"] for labels, _ in found[f"streamserve:{name}"]} == set(LANES), name
        states = {(labels["lane"], labels["state"]): value for labels, value in found["streamserve:lane_state"]}
        assert [states[lane, "ready"] for lane in LANES] == [1.0, 1.0]

    def test_a_request_is_counted_with_the_fate_of_its_slo(self, server: Server) -> None:
        def counted() -> tuple[float, float, dict[str, float]]:
            found = series(server)
            met = {labels["met"]: value for labels, value in found.get("streamserve:slo_requests_total", ())}
            return (
                sum(value for _, value in found.get("streamserve:requests_total", ())),
                sum(value for _, value in found["streamserve:generated_tokens_total"]),
                {"yes": met.get("yes", 0), "no": met.get("no", 0)},
            )

        requests, generated, met = counted()
        assert tokens(ask(server, {"x-streamserve-ttft-slo-ms": "0.001"})) == TOKENS
        assert tokens(ask(server, {"x-streamserve-ttft-slo-ms": "60000"})) == TOKENS
        expected = (requests + 2, generated + 2 * TOKENS, {"yes": met["yes"] + 1, "no": met["no"] + 1})
        wait_until(lambda: counted() == expected, 5, lambda: f"{counted()}, not {expected}")

    def test_the_mode_in_force_is_a_series(self, server: Server) -> None:
        everywhere(server, "fixed:3")

        def modes() -> list[tuple[str, str]]:
            return sorted((labels["lane"], labels["mode"]) for labels, _ in series(server)["streamserve:depth_mode"])

        wait_until(lambda: modes() == [(lane, "fixed") for lane in LANES], 5, lambda: str(modes()))
        assert {value for _, value in series(server)["streamserve:depth_fixed"]} == {3.0}
