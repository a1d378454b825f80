"""The load generator: what it is told, what is read from its result, and what becomes of a run that fails."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from streamserve.bench.contest import client as client_module
from streamserve.bench.contest import place, reading, server
from streamserve.bench.contest.cell import Sample
from streamserve.bench.contest.client import Ask, Client
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.server import Serving
from streamserve.bench.contest.systems import System
from streamserve.bench.contest.watch import watch
from streamserve.errors import ConfigError, SetupError
from tests.bench.contest.test_server import serving_process, system

ROOT = Path(__file__).parents[3]
RECORDED = Path(__file__).with_name("recorded.json")


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(client_module, "MODULE", "tests.bench.contest.stand_in_client")
    monkeypatch.chdir(ROOT)
    return Place("model", (0,), tmp_path)


def serving(url: str = "http://serves") -> Serving:
    return Serving(System("vllm", "vLLM", url, "tokenizer"), url, "name", 0, asyncio.Future())


def told(at: Place, run: int = 0) -> dict[str, Any]:
    """The job that the process was given."""
    job: dict[str, Any] = json.loads((at.folder / "client" / f"run-{run}.json").read_text())["job"]
    return job


ASKS = [Ask("What is it?", 12), Ask("Why\n?", 34)]


async def test_a_run_is_vllm_s_own_benchmark_over_chat_completions(at: Place) -> None:
    async with client_module.started(at) as client:
        duration_s, samples = await client.drive(serving(), ASKS, 4.0, "gamma:5", 7, 30)
    assert duration_s == 1.5
    assert samples == (Sample(0.0, 5, 12, 0.1, 0.3, (0.2,)), Sample(1.0, 5, 34, 0.1, 0.3, (0.2,)))
    job = told(at)
    given = dict(zip(job["argv"], job["argv"][1:], strict=False))
    assert given["--endpoint"] == "/v1/chat/completions"
    assert (given["--base-url"], given["--served-model-name"], given["--model"]) == (
        "http://serves",
        "name",
        "tokenizer",
    )
    assert (given["--request-rate"], given["--burstiness"], given["--seed"]) == ("4.0", "0.04", "7")
    assert (given["--temperature"], given["--num-prompts"]) == ("0", "2")
    assert {"--ignore-eos", "--disable-shuffle", "--skip-chat-template", "--save-detailed"} <= set(job["argv"])
    assert (job["limit_s"], job["offsets_s"]) == (30, None)
    prompts = (at.folder / "client" / "run-0.jsonl").read_text().splitlines()
    assert json.loads(prompts[1]) == {"prompt": "Why\n?", "output_tokens": 34}


async def test_arrivals_that_the_client_does_not_know_are_drawn_here(at: Place, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s\n0\n1\n5\n")
    async with client_module.started(at) as client:
        for arrivals in (f"trace:{trace}", "burst", "poisson"):
            await client.drive(serving(), ASKS, 0.5, arrivals, 7, 30)
    assert told(at)["offsets_s"] == [0.0, 4.0]
    assert "--request-rate" not in told(at)["argv"]
    burst = told(at, 1)
    assert (burst["argv"][burst["argv"].index("--request-rate") + 1], burst["offsets_s"]) == ("inf", None)
    poisson = told(at, 2)["argv"]
    assert poisson[poisson.index("--burstiness") + 1] == "1.0"


@pytest.mark.parametrize(
    ("arrivals", "rate", "message"),
    [
        ("weekly", 1.0, "there is no process 'weekly'"),
        ("poisson", 0.0, "the rate must be above 0"),
        ("poisson", 0.01, "the last of 2 requests comes after 200 s"),
        ("mmpp:1,2:3", 0.01, "the last of 2 requests comes after 200 s"),
    ],
)
async def test_arrivals_that_cannot_be_played_are_told(at: Place, arrivals: str, rate: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await Client(at).drive(serving(), ASKS, rate, arrivals, 7, 30)


async def test_a_short_trace_is_told(at: Place, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s\n0\n1\n5\n")
    with pytest.raises(ConfigError, match="has 3 arrivals, 4 requests are to be sent"):
        await Client(at).drive(serving(), ASKS * 2, 1.0, f"trace:{trace}", 7, 30)


async def test_a_client_that_fails_says_so_and_serves_the_next_run(at: Place) -> None:
    async with client_module.started(at) as client:
        with pytest.raises(SetupError, match="failed: ValueError: no such dataset; look into .*client.log"):
            await client.drive(serving("http://refuses"), ASKS, 1.0, "burst", 7, 30)
        with pytest.raises(SetupError, match="has ended with 7"):
            await client.drive(serving("http://dies"), ASKS, 1.0, "burst", 7, 30)
        assert len((await client.drive(serving(), ASKS, 1.0, "burst", 7, 30))[1]) == 2


async def test_a_client_that_says_nothing_is_ended_and_another_serves_the_next_run(
    at: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "GRACE_S", 0.1)
    async with client_module.started(at) as client:
        process = psutil.Process((await client.start()).pid)
        with pytest.raises(SetupError, match="said nothing for 0.2 s"):
            await client.drive(serving("http://silent"), ASKS, 1.0, "burst", 7, 0.1)
        assert not process.is_running()
        monkeypatch.setattr(client_module, "GRACE_S", 20.0)
        assert len((await client.drive(serving(), ASKS, 1.0, "burst", 7, 30))[1]) == 2


async def test_an_interrupted_run_takes_its_process_along(at: Place) -> None:
    async with client_module.started(at) as client:
        process = psutil.Process((await client.start()).pid)
        run = asyncio.create_task(client.drive(serving("http://silent"), ASKS, 1.0, "burst", 7, 30))
        while not (at.folder / "client").exists():
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert not process.is_running()


def test_a_real_result_is_read() -> None:
    saved = reading.read(RECORDED)
    served, cut, refused, broken, last = reading.samples(saved, [6, 6, 6, 6, 6])
    assert (served.begun_s, served.prompt_tokens, served.output_tokens, served.error) == (0.0, 7, 6, None)
    assert served.ttft_s is not None and served.e2e_s is not None and served.tpot_s is not None
    assert len(served.itl_s) == 5
    assert sum(served.itl_s) == pytest.approx(served.e2e_s - served.ttft_s, abs=0.002)
    assert cut.error == "TimeoutError: cut off 2 s after the run's first request"
    assert refused.error == "Internal Server Error"
    assert broken.error == "it brought 4 of 6 tokens"
    assert {each.e2e_s for each in (cut, refused, broken)} == {None}
    assert 0 < cut.begun_s < refused.begun_s < broken.begun_s < last.begun_s
    assert saved.duration == pytest.approx(2, abs=0.5)


def test_a_result_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"duration": 1}')
    with pytest.raises(SetupError, match="no detailed result of `vllm bench serve`"):
        reading.read(other)
    with pytest.raises(SetupError, match="tells of 5 requests, 2 were asked for"):
        reading.samples(reading.read(RECORDED), [6, 6])


async def test_lanes_are_watched_until_the_run_ends(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with server.up(system(serving_process("one", "lanes")), tmp_path) as ours:
        watching = asyncio.create_task(watch(ours, stop, 0.05))
        async with httpx.AsyncClient() as http:
            body = {"messages": [{"content": [{"text": "anything"}]}], "max_completion_tokens": 2}
            for _ in range(3):
                await asyncio.sleep(0.1)
                await http.post(f"{ours.url}/v1/chat/completions", json=body)
        stop.set()
        seen = await watching
    assert 0 <= seen[0].at_s < seen[-1].at_s
    # The stand-in tells of 12 drafted, 6 accepted and 10 gained tokens per request: four steps of three.
    assert {depth for each in seen for depth in each.depth.values()} == {3.0}
    assert all(each.running.keys() == each.waiting.keys() == {"lane-0"} for each in seen)


async def test_a_server_without_lanes_is_not_watched(at: Place) -> None:
    assert await watch(serving(), asyncio.Event()) == ()


@pytest.mark.live
async def test_vllm_s_client_cuts_off_what_does_not_end_and_plays_a_trace(tmp_path: Path) -> None:
    here = place.here("embedded", tmp_path)
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s\n0\n0.1\n0.2\n1\n")
    async with client_module.started(here) as client:
        plan = replace(system(serving_process("one", "lanes")), tokenizer=here.model)
        async with server.up(plan, tmp_path) as ours:
            prompts = ["a", "hang", "refuse", "break", "b"]
            duration_s, samples, watched = await client.drive_watched(
                ours, [Ask(prompt, 6) for prompt in prompts], 10.0, "poisson", 7, 2.0
            )
            assert 1.9 < duration_s < 10
            assert [sample.error is None for sample in samples] == [True, False, False, False, True]
            assert [each.at_s >= 0 for each in watched] and watched[0].running.keys() == {"lane-0"}
            async with httpx.AsyncClient() as http:
                async with asyncio.timeout(20):
                    while (seen := (await http.get(f"{ours.url}/seen")).json())["open"]:
                        await asyncio.sleep(0.05)
                assert (seen["closed"], [prompt for _, prompt in seen["asked"]]) == (1, prompts)
                # 4 requests at 2 per second: the trace's gaps of 0.1, 0.1 and 0.8, twice as long.
                await client.drive(ours, [Ask(f"t{number}", 2) for number in range(4)], 2.0, f"trace:{trace}", 7, 20.0)
                times = [at_s for at_s, prompt in (await http.get(f"{ours.url}/seen")).json()["asked"][5:]]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert gaps == pytest.approx([0.2, 0.2, 1.6], abs=0.15)
