"""Calibration: its plan, its log of steps, and the whole of it over fake lanes in virtual time."""

import asyncio
import json
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from streamserve import cli, virtual
from streamserve import config as configuration
from streamserve.bench import calibrate, calibrate_drive, rig
from streamserve.bench.calibrate import LOT, SHUFFLES, Options, drafter_lots, host_slug, real_prompts, run
from streamserve.bench.calibrate_log import StepRecorder
from streamserve.bench.calibrate_plan import Agenda, Cell, Decode, Limits, Mixed, Prompt, Real, fits, subjects
from streamserve.bench.calibrate_report import score_table
from streamserve.config import Config
from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import load
from streamserve.lanes.sim.fit_score import Score
from streamserve.specustream.playback import Output
from streamserve.types import LaneId, Request, Slo
from tests.bench.stepped import SteppedLane
from tests.fakes import make_request
from tests.lanes.sim.logs import TRUTH

LIMITS = Limits(lanes=2, max_running=64, max_step_tokens=2048, max_len=8192, max_depth=8)
REPORT = {"prefill_tokens": 0, "requests": 1, "draft_tokens": 0, "context_tokens": 9, "attention_tokens": 0.0}


def test_cells_that_the_lanes_cannot_run_are_left_out() -> None:
    small = Limits(lanes=1, max_running=8, max_step_tokens=256, max_len=512, max_depth=4)
    levels = subjects(small)
    assert set(levels) == {"steps", "real"}
    cells = [cell for level in levels["steps"] for cell in level]
    assert max(cell.batch for cell in cells if isinstance(cell, Decode)) == 8
    assert max(cell.depth for cell in cells if isinstance(cell, Decode)) == 4
    assert max(cell.tokens for cell in cells if isinstance(cell, Prompt)) <= 256
    assert not fits(Mixed(4, 256, 0), small)


def test_every_subject_gets_its_share_of_the_time() -> None:
    agenda = Agenda(subjects(LIMITS), np.random.default_rng(0))
    spent: dict[str, float] = {}
    for _ in range(400):
        following = agenda.next()
        assert following is not None
        name, cell = following
        seconds = 5.0 if isinstance(cell, Real) else 1.0
        agenda.spent(name, seconds)
        spent[name] = spent.get(name, 0.0) + seconds
    total = sum(spent.values())
    assert {name: round(each / total, 1) for name, each in spent.items()} == {
        "steps": 0.6,
        "together": 0.1,
        "split": 0.1,
        "real": 0.2,
    }


def test_the_first_level_comes_first_and_is_all_that_is_needed() -> None:
    levels: dict[str, list[list[Cell]]] = {"steps": [[Prompt(1), Prompt(2)], [Prompt(3)]], "real": [[Real()]]}
    agenda = Agenda(levels, np.random.default_rng(1))
    needed = []
    while (following := agenda.next(needed=True)) is not None:
        needed.append(following[1])
    assert sorted(map(str, needed)) == sorted(map(str, [Prompt(1), Prompt(2), Real()]))
    agenda.end("real")
    assert [agenda.next() for _ in range(2)] == [("steps", Prompt(3))] * 2
    agenda.end("steps")
    assert agenda.next() is None


def test_another_seed_is_another_order_of_the_same_cells() -> None:
    def first(seed: int) -> list[str]:
        agenda = Agenda({"steps": subjects(LIMITS)["steps"][:1]}, np.random.default_rng(seed))
        return [str(agenda.next()) for _ in subjects(LIMITS)["steps"][0]]

    assert first(1) != first(2)
    assert sorted(first(1)) == sorted(first(2))


def test_a_step_that_follows_another_takes_until_it_ends() -> None:
    recorder = StepRecorder()
    recorder.cell = 3
    recorder.note(0, 10.0, REPORT | {"step_s": 0.05}, 1)
    recorder.note(1, 10.01, REPORT | {"step_s": 0.04}, 1)
    recorder.note(0, 10.06, REPORT | {"step_s": 0.055}, 0)
    recorder.note(0, 20.0, REPORT | {"step_s": 0.05}, 0)
    first, other, second, third = recorder.steps
    assert first.time_s == pytest.approx(0.051), "its own and a usual gap, since nothing was left before it"
    assert other.lane == 1
    assert second.time_s == pytest.approx(0.06)
    assert third.time_s == pytest.approx(0.051, abs=1e-3)
    assert recorder.step_at(0, 20.0) == third
    assert recorder.step_at(0, 10.06) is None


def test_waiting_for_kv_is_no_step() -> None:
    recorder = StepRecorder()
    recorder.cell = 1
    recorder.note(0, 10.0, REPORT, 1)
    recorder.note(0, 10.5, REPORT, 1)
    recorder.note(0, 10.6, REPORT | {"step_s": 0.09}, 0)
    assert [step.time_s for step in recorder.steps] == [pytest.approx(0.1)]


def test_steps_outside_of_cells_are_not_kept_but_counted() -> None:
    recorder = StepRecorder()
    enough = recorder.reached(0, requests=1, steps=2)
    recorder.note(0, 1.0, REPORT | {"step_s": 0.05}, 1)
    recorder.note(0, 1.1, REPORT | {"step_s": 0.05, "prefill_tokens": 8}, 1)
    assert not enough.is_set()
    recorder.note(0, 1.2, REPORT | {"step_s": 0.05}, 1)
    assert enough.is_set()
    assert recorder.steps == []


class LetterTokenizer:
    def encode(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        return [ord(letter) for _, text in messages for letter in text]


@asynccontextmanager
async def fake_live(configs: Mapping[str, Config], _progress: Any, recorder: StepRecorder) -> AsyncIterator[Namespace]:
    (config,) = configs.values()
    lanes: dict[LaneId, Any] = {lane.id: SteppedLane(place, recorder.note) for place, lane in enumerate(config.lanes)}
    yield Namespace(sets={"lanes": rig.LaneSet(config, lanes)}, model="nowhere", tokenizer=LetterTokenizer())


def fake_greedy(id: str, prompt: Sequence[int], max_tokens: int, arrived_s: float, slo: Slo) -> Request:
    return make_request(id, prompt, max_tokens, arrived_s=arrived_s, slo=slo)


@pytest.fixture
def fake_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration of fake lanes in virtual time."""
    monkeypatch.setattr(rig, "live", fake_live)
    monkeypatch.setattr(rig, "greedy", fake_greedy)
    monkeypatch.setattr(rig, "prepare_front", lambda _device: None)
    monkeypatch.setattr(calibrate, "logged", lambda recorder: recorder)
    monkeypatch.setattr(calibrate, "uvloop", Namespace(run=virtual.run))
    monkeypatch.setattr(calibrate, "plan", lambda _config, _cores: [Namespace(cores=(0,))])
    monkeypatch.setattr(calibrate_drive, "clock_s", lambda: asyncio.get_running_loop().time())


def options(folder: Path, minutes: float = 0.5, **fields: Any) -> Options:
    config = configuration.load("cpu-pair", [])
    made = Options(config, "cpu-pair", minutes, folder / "out", "fake", folder=folder / "calibration")
    return replace(made, **fields)


@pytest.mark.usefixtures("fake_lanes")
def test_a_calibration_of_fake_lanes_finds_how_they_work(tmp_path: Path) -> None:
    path = run(options(tmp_path), Console(quiet=True))
    calibration = load(str(path))
    assert path == tmp_path / "calibration" / "fake.yaml"
    assert calibration.step.prompt_token_s == pytest.approx(TRUTH.prompt_token_s, rel=0.03)
    assert calibration.step.prompt_s == pytest.approx(TRUTH.prompt_s, rel=0.1)
    assert dict(calibration.step.decode_s)[1] == pytest.approx(0.040, rel=0.05)
    assert calibration.coupling == pytest.approx((1.0, 1.0), abs=0.02)
    assert calibration.transfer.base_s == pytest.approx(0.005, abs=0.002)
    assert calibration.acceptance["synthetic"] == calibration.acceptance["mix"]
    outputs = json.loads((tmp_path / "out" / "outputs.json").read_bytes())
    assert sorted(map(len, calibration.answers["synthetic"])) == sorted(2 * len(each["tokens"]) - 2 for each in outputs)
    assert (calibration.block_tokens, calibration.kv_tokens, calibration.max_depth) == (128, 40_000, 8)
    assert calibration.origin.command == "streamserve calibrate --config cpu-pair --minutes 0.5"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| compute prompts |" in text and "| step.attention_s |" in text and "| synthetic | 0 |" in text
    for name in ("steps", "decode", "prompt", "noise"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"![{name}]({name}.png)" in text
    assert str(tmp_path) not in path.read_text() + text


@pytest.mark.usefixtures("fake_lanes")
def test_too_little_time_is_enough_for_a_fit(tmp_path: Path) -> None:
    """What a fit cannot do without is measured even if it takes longer."""
    assert load(str(run(options(tmp_path, minutes=0.001), Console(quiet=True)))).noise.log_residuals


@pytest.mark.usefixtures("fake_lanes")
def test_one_lane_without_drafts(tmp_path: Path) -> None:
    one = configuration.load("unified", ["speculation.method=none", "speculation.mode='off'"])
    calibration = load(str(run(options(tmp_path, config=one), Console(quiet=True))))
    assert calibration.coupling == (1.0,)
    assert calibration.acceptance == {}
    assert (calibration.transfer.base_s, calibration.max_depth) == (0.0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0.0}, "--minutes must be above 0"),
        ({"minutes": float("nan")}, "--minutes must be above 0"),
        ({"name": "../mine"}, "--name"),
        ({"prompts": Path("/nonexistent")}, "there is no .jsonl file"),
        ({"out": Path(__file__)}, "give --out another folder"),
        ({"config": configuration.load("unified", ["speculation.method=eagle", "speculation.model=m"])}, "played back"),
    ],
)
def test_what_cannot_work_is_refused_before_a_lane_starts(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(options(tmp_path, **changes), Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_real_prompts_take_turns_and_fit(tmp_path: Path) -> None:
    for workload, lengths in (("chat", (5, 6, 900)), ("code", (7,))):
        lines = [{"id": f"{workload}-{n}", "prompt": "x" * n, "max_tokens": 400} for n in lengths]
        (tmp_path / f"{workload}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = real_prompts(tmp_path, LetterTokenizer().encode, 500, np.random.default_rng(0))
    assert [workload for workload, _ in found] == ["chat", "code", "chat"]
    assert sorted(len(job.prompt_token_ids) for _, job in found) == [5, 6, 7]
    assert {job.max_tokens for _, job in found} == {calibrate.LONGEST_ANSWER}


def test_a_drafter_meets_a_lot_of_all_workloads() -> None:
    outputs = [Output("chat" if n % 2 else "code", [n], [n]) for n in range(104)]
    lots = drafter_lots(outputs, np.random.default_rng(0))
    assert {len(lot) for lot in lots} <= {LOT, LOT + 1}
    assert all({each.workload for each in lot} == {"chat", "code"} for lot in lots)
    met = [each.prompt[0] for lot in lots for each in lot]
    assert [met.count(n) for n in range(104)] == [SHUFFLES] * 104
    assert met[:104] != met[104:208]
    assert [len(lot) for lot in drafter_lots(outputs[:3], np.random.default_rng(0))] == [3] * SHUFFLES
    assert drafter_lots([], np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("processor", "slug"),
    [
        ("Intel(R) Xeon(R) Processor", "xeon-2c"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "core-i7-9750h-2c"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7763-2c"),
        ("", "cpu-2c"),
    ],
)
def test_a_host_is_named_by_its_processor(processor: str, slug: str) -> None:
    assert host_slug(processor, 2) == slug


def test_a_calibration_is_named_by_host_and_model() -> None:
    assert calibrate.default_name(configuration.load("cpu-pair")).endswith("c-smollm2-135m-instruct")
    other = calibrate.default_name(configuration.load("cpu-pair", ["model=Qwen/Qwen3-0.6B"]))
    assert other.endswith("c-qwen3-0.6b")


def test_the_error_beyond_the_noise_is_shown() -> None:
    text = score_table({"decode": Score(9, 0.05, 0.04, 0.02, None, -0.01)})
    assert "| decode | 9 | 5.0 % | 4.0 % | 3.0 % | 2.0 % | - | -1.0 % |" in text


def test_the_command_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Options] = []

    def fake_run(options: Options, _console: Console) -> Path:
        given.append(options)
        return Path("made.yaml")

    monkeypatch.setattr(calibrate, "run", fake_run)
    line = f"calibrate --config unified --prompts {tmp_path} --minutes 2 --out report --name mine"
    result = CliRunner().invoke(cli.app, line.split())
    assert result.exit_code == 0, result.output
    assert "made.yaml" in result.output and "report/report.md" in result.output
    (chosen,) = given
    assert (chosen.config_name, chosen.prompts, chosen.minutes) == ("unified", tmp_path, 2.0)
    assert (chosen.out, chosen.name) == (Path("report"), "mine")
