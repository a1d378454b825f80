"""Both benchmarks from command line to report, over fake lanes in virtual time."""

import json
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamserve import virtual
from streamserve.bench import rig, routing, speculation
from streamserve.config import Config
from streamserve.types import LaneId, Request, Slo
from tests.bench.slow import SlowLane
from tests.fakes import make_request


class LetterTokenizer:
    def encode(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        return [ord(letter) for _, text in messages for letter in text]


@asynccontextmanager
async def fake_live(configs: Mapping[str, Config], progress: Any) -> AsyncIterator[Namespace]:
    sets = {}
    for name, given in configs.items():
        config = given if len(configs) == 1 else rig.renamed(given, name)
        lanes = {lane.id: SlowLane(lane.id, turn_s=0.05) for lane in config.lanes}
        for lane in lanes.values():
            await lane.start(progress)
        sets[name] = rig.LaneSet(config, {LaneId(id): lane for id, lane in lanes.items()})
    yield Namespace(sets=sets, tokenizer=LetterTokenizer())


def fake_greedy(id: str, prompt: Sequence[int], max_tokens: int, arrived_s: float, slo: Slo) -> Request:
    return make_request(id, prompt, max_tokens, arrived_s=arrived_s, slo=slo)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rig, "live", fake_live)
    monkeypatch.setattr(rig, "greedy", fake_greedy)
    for name in ("alpaca", "sum"):
        entries = [
            {"id": f"{name}-{i}", "prompt": f"{name} {i}", "max_tokens": 6 + i, "reference": "so"} for i in range(9)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return tmp_path


def test_speculation_from_command_line_to_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"--prompts {folder} --out {folder / 'out'} --workloads alpaca sum --batches 1 4 --repeats 2"
    line += " --rules off fixed:2 specustream --through sum:1:9 alpaca:4:9"
    options = speculation.arguments().parse_args(line.split())
    virtual.run(speculation.main(options))
    text = (folder / "out" / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert "| alpaca x 4 |" in text
    assert "| whole |" in text
    assert "1.00 % of the step time over 10 steps" in text


@pytest.mark.parametrize("more", ["", " --multi-turn --turns 3"])
def test_routing_from_command_line_to_report(folder: Path, more: str) -> None:
    line = f"--prompts {folder} --out {folder / 'out'} --workloads sum alpaca --repeats 2 --loads 0.5"
    line += " --requests 6 --arrivals gamma:5 --capacity-requests 6"
    line += f" --routers least_loaded round_robin+direct --baseline 3{more}"
    options = routing.arguments().parse_args(line.split())
    virtual.run(routing.main(options))
    text = (folder / "out" / "report.md").read_text()
    for system in ("least_loaded", "round_robin+direct", "plain"):
        assert f"| {system} |" in text
    assert "least_loaded over" in text
    best = next(each for each in text.splitlines() if each.startswith("| best other router |"))
    assert "round_robin+direct" in best and "plain" not in best
    assert "## gamma:5, load 0.5" in text
    assert len(list((folder / "out" / "runs").glob("*.json"))) == 2 * 3
