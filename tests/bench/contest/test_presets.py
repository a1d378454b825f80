"""Contests by name, and the sources of prompts."""

from pathlib import Path

import httpx
import pytest

from streamserve.bench.contest import hub, systems
from streamserve.bench.contest.presets import NAMES, components, preset, topologies
from streamserve.bench.contest.settings import Settings, check, points
from streamserve.config import load, names
from streamserve.errors import ConfigError
from streamserve.workload import prompts


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", ["cpu-pair", "gpu-shared", "gpu-two-pairs"])
def test_every_preset_can_be_asked_for(name: str, config: str) -> None:
    made = preset(name, config)
    settings = Settings(made.systems, **{**made.settings, "plots": False})
    check(settings)
    assert len(made.systems) >= 2 and points(settings)
    for each in made.systems:
        systems.parse(each)


@pytest.mark.parametrize("config", [name for name in names() if name != "unified"])
def test_all_topologies_and_components_load(config: str) -> None:
    for each in (*topologies(config), *components(config, ["some-policy"])):
        loaded = load(each.config, each.changes)
        assert loaded.device == load(config).device
        assert each.system.startswith(f"streamserve:{each.config}")


def test_the_topologies_are_elastic_static_and_one_lane() -> None:
    elastic, static, one = (load(each.config, each.changes) for each in topologies("cpu-pair"))
    assert len(elastic.stream_pairs()) == 4
    assert static.stream_pairs() == (("lane-0", "lane-1"),)
    assert len(one.lanes) == 1 and one.lanes[0].cores == 0
    whole = load(topologies("gpu-two-pairs")[2].config, topologies("gpu-two-pairs")[2].changes)
    assert (whole.lanes[0].gpus, whole.lanes[0].tensor_parallel_size) == ([0, 1, 2, 3], 4)
    assert load("gpu-two-pairs", topologies("gpu-two-pairs")[1].changes).stream_pairs() == (
        ("lane-0", "lane-1"), ("lane-2", "lane-3"),
    )  # fmt: skip


def test_every_component_is_taken_away_alone() -> None:
    loaded = {each.title.split(":")[0]: load(each.config, each.changes) for each in components("cpu-pair")}
    whole = loaded["everything, heuristic"]
    assert loaded["no P/D"].stream_pairs() == (("lane-0", "lane-0"), ("lane-1", "lane-1"))
    assert (loaded["no routing"].router, loaded["no routing"].stream_pairs()) == ("round_robin", whole.stream_pairs())
    assert loaded["no speculation"].speculation.method == "none"
    assert loaded["no speculation"].router == loaded["no P/D"].router == whole.router
    assert loaded["fixed depth 3"].speculation.depth == 3


def test_baselines_draft_as_streamserve_does_and_one_does_not() -> None:
    assert preset("baselines", "cpu-pair").systems == (
        "streamserve:cpu-pair", "vllm", "vllm-spec", "vllm-dp-spec", "vllm-pd-spec",
    )  # fmt: skip


def test_lanes_cannot_be_compared_where_there_is_one() -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        preset("topology", "unified")
    with pytest.raises(ConfigError, match="choose smoke, baselines"):
        preset("everything", "cpu-pair")


def hub_client(rows: int) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        begin = int(request.url.params["offset"])
        page = [
            {"row": {"question": f"question {i}?", "answer": "word " * (20 + i)}}
            for i in range(begin, min(begin + 100, rows))
        ]
        return httpx.Response(200, json={"rows": page})

    return httpx.Client(transport=httpx.MockTransport(answer))


def test_prompts_come_from_their_public_source_once(tmp_path: Path) -> None:
    notes: list[str] = []
    hub.fetch(["gsm8k"], tmp_path, hub_client(250), notes.append)
    assert notes == ["gsm8k: 80 prompts of openai/gsm8k (MIT)"]
    made = prompts.load_folder(tmp_path)["gsm8k"]
    assert len(made) == 80 and len({each.id for each in made}) == 80
    assert {each.max_tokens % 16 for each in made} == {0}
    assert 128 <= min(each.max_tokens for each in made) < max(each.max_tokens for each in made) <= 384
    hub.fetch(["gsm8k"], tmp_path, hub_client(0), notes.append)
    assert len(notes) == 1


def test_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path: Path) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    with httpx.Client(transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(ConfigError, match="--prompts DIR"):
            hub.fetch(["sum"], tmp_path, client, print)
        with pytest.raises(ConfigError, match="alpaca, gsm8k, humaneval, sum"):
            hub.fetch(["news"], tmp_path, client, print)
    with pytest.raises(ConfigError, match="no entry"):
        hub.fetch(["gsm8k"], tmp_path, hub_client(0), print)
