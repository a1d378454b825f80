"""`streamserve bench` from its options to report and choice; servers and load generator are stand-ins."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from streamserve import cli, picked
from streamserve.bench.contest import client, hold, place, server, systems
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.systems import System
from streamserve.cli.benchmark import split
from streamserve.errors import ConfigError
from streamserve.machine import Gpu
from tests.bench.contest.hall import Hall, system
from tests.test_doctor import LAPTOP

QUICK = ("--no-plots", "--capacity", "2", "--repeats", "2", "--requests", "4", "--loads", "0.8")
PAIR = "streamserve:cpu-pair"


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hall:
    made = Hall({"streamserve:unified": 0.5, "vllm": 2.0})

    def here(model: str, folder: Path, cores: int | None = None, **_: Any) -> Place:
        folder.mkdir(parents=True, exist_ok=True)
        return Place(model, tuple(range(cores or 2)), folder)

    def resolve(names: Sequence[str], where: Place) -> list[System]:
        return [system(name) for name in names]

    @asynccontextmanager
    async def started(where: Place) -> AsyncIterator[Any]:
        yield made.client

    monkeypatch.setattr("streamserve.machine.inspect_machine", lambda port=8000: LAPTOP)
    monkeypatch.setattr(hold, "inspect_machine", lambda: LAPTOP)
    monkeypatch.setattr(place, "here", here)
    monkeypatch.setattr(systems, "resolve", resolve)
    monkeypatch.setattr(client, "started", started)
    monkeypatch.setattr(server, "up", lambda one, logs: made.up(one))
    monkeypatch.setattr(hold, "available_memory_gib", lambda: 100.0)
    monkeypatch.setenv("STREAMSERVE_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return made


def bench(*options: str) -> Result:
    return CliRunner().invoke(cli.app, ["bench", *options], env={"COLUMNS": "200"})


def test_a_preset_from_its_name_to_the_report(hall: Hall, tmp_path: Path) -> None:
    result = bench("--preset", "smoke", *QUICK)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "bench" / "report.md").read_text()
    assert f"| mix, poisson, load 0.8 | `{PAIR}`: 2 (2 .. 2) vllm ~ |" in text
    assert len(list((tmp_path / "bench" / "cells").glob("*.json"))) == 4
    assert "vllm: E2E mean, s 2," in result.stdout
    assert "[4/4, 0.0 min left]" in result.stdout
    assert {len(requests) for _, requests, rate, *_ in hall.client.sent if rate != 1.0} == {4}


def test_started_again_it_goes_on_and_with_other_options_it_does_not(hall: Hall) -> None:
    options = ("--systems", f"{PAIR},vllm", *QUICK)
    assert bench(*options).exit_code == 0
    begun = len(hall.client.sent)
    assert bench(*options).exit_code == 0
    assert len(hall.client.sent) == begun
    error = bench(*options, "--seed", "1").exception
    assert isinstance(error, ConfigError) and "other settings" in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pick", "--systems", "vllm"), "leave --systems"),
        (("--rate", "2", "--loads", "0.5"), "give one of them"),
        (("--loads", "half"), "numbers with commas"),
        (("--preset", "everything"), "choose smoke"),
        (("--workloads", "gsm8k"), "there is no gsm8k, these prompts have questions, texts, mix"),
        (("--workloads", "gsm8k", "--prompts", "."), "no .jsonl file"),
        (("--prompts", ".", "--hub"), "give one of them"),
        (("--systems", "vllm", "--arrivals", "often"), "poisson, gamma:CV"),
        (("--capacity", "fast"), "--capacity"),
    ],
)
def test_mistakes_end_it_before_anything_is_started(hall: Hall, options: tuple[str, ...], message: str) -> None:
    result = bench("--no-plots", *options)
    assert isinstance(result.exception, ConfigError) and message in str(result.exception)
    assert hall.ups == []


def test_pick_leaves_its_choice_for_serve(hall: Hall, tmp_path: Path) -> None:
    result = bench("--pick", *QUICK, "--repeats", "3")
    assert result.exit_code == 0, result.output
    assert f"{PAIR} again" in (tmp_path / "bench" / "report.md").read_text()
    choice = picked.read(picked.path())["embedded, 2 cores"]
    assert (choice.config, choice.changes) == ("unified", [])
    assert choice.reason.startswith("E2E p99, s 2 (2 .. 2, n=6) times better than 2 elastic lanes")
    assert "`streamserve serve` takes it for embedded, 2 cores from now on" in result.stdout
    assert json.loads((tmp_path / "bench" / "pick.json").read_text())["topology"]["config"] == "unified"


def test_a_choice_holds_for_the_cores_that_were_measured(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(LAPTOP, core_ids=tuple(range(8)))
    monkeypatch.setattr(hold, "inspect_machine", lambda: machine)
    result = bench("--pick", *QUICK, "--repeats", "3", "--cores", "2")
    assert result.exit_code == 0, result.output
    assert list(picked.read(picked.path())) == ["embedded, 2 cores"]


def test_a_preset_keeps_its_load_with_other_systems(hall: Hall) -> None:
    given = ("--no-plots", "--capacity", "2", "--repeats", "1", "--requests", "4")
    assert bench("--preset", "baselines", "--systems", "vllm,vllm-spec", *given).exit_code == 0
    assert {(rate, arrivals) for _, _, rate, arrivals, _ in hall.client.sent if rate != 1.0} == {
        (1.6, "poisson"), (1.6, "gamma:5")
    }  # fmt: skip
    assert set(hall.client.runs) == {"vllm", "vllm-spec"}


def test_without_a_preset_systems_run_under_the_usual_load(hall: Hall) -> None:
    given = ("--no-plots", "--capacity", "4", "--repeats", "1", "--requests", "4", "--out", "usual")
    assert bench("--systems", "vllm,vllm-spec", *given).exit_code == 0
    sent = {(rate, arrivals) for _, _, rate, arrivals, _ in hall.client.sent if rate != 1.0}
    assert sent == {(2.0, "poisson"), (3.2, "poisson")}


def test_the_report_tells_the_capacity_that_was_given(hall: Hall, tmp_path: Path) -> None:
    assert bench("--systems", "vllm", *QUICK).exit_code == 0
    assert "| capacity, requests/s | mix 2 (as given) |" in (tmp_path / "bench" / "report.md").read_text()


def test_pick_without_a_difference_takes_an_earlier_choice_back(hall: Hall) -> None:
    picked.write(picked.path(), "embedded, 2 cores", picked.Picked("unified", [], "", "2026-11-01"))
    hall.client.seconds = {}
    result = bench("--pick", *QUICK)
    assert "no difference beyond noise: the default stays" in result.stdout
    assert "an earlier choice is taken back" in result.stdout
    assert picked.read(picked.path()) == {}


def test_an_interrupted_contest_says_how_it_goes_on(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hold, "hold", interrupted)
    result = bench("--systems", "vllm", *QUICK)
    assert result.exit_code == 130
    assert "the same command goes on from what lies in bench" in result.stderr


def test_on_gpus_systems_run_one_at_a_time(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(LAPTOP, gpus=(Gpu(0, "H200", 139.0, 139.0),), packages={"vllm": "0.32.0"})
    monkeypatch.setattr(hold, "inspect_machine", lambda: machine)
    result = bench("--systems", "streamserve:gpu-shared,vllm", *QUICK)
    assert result.exit_code == 0, result.output
    assert "each takes the GPUs' whole memory" in result.stdout
    assert len(hall.ups) == 4
    assert isinstance(bench("--systems", "vllm", "--keep", *QUICK).exception, ConfigError)


def test_systems_are_split_at_commas_outside_of_brackets() -> None:
    names = split("streamserve:cpu-pair+pairs=[[lane-0,lane-1]],vllm,,streamserve+lanes=[{id: a, gpus: [0]}]")
    assert names == (
        "streamserve:cpu-pair+pairs=[[lane-0,lane-1]]", "vllm", "streamserve+lanes=[{id: a, gpus: [0]}]",
    )  # fmt: skip


def test_a_system_that_leaves_cores_to_its_rivals_is_told(hall: Hall) -> None:
    told = f"{PAIR} leaves 6 of 8 cores idle, vLLM none: --cores 2 gives every system the same"
    assert told in bench("--preset", "smoke", *QUICK, "--cores", "8").stdout
    assert "idle, vLLM none" not in bench("--preset", "smoke", *QUICK, "--out", "other").stdout
