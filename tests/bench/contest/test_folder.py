"""A contest's folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from streamserve.bench.contest.cell import Cell, Watched
from streamserve.bench.contest.folder import Folder, Kept
from streamserve.bench.contest.settings import Settings
from streamserve.errors import ConfigError
from tests.bench.contest.hall import kept, sample

SETTINGS = Settings(("streamserve", "vllm"))


def test_a_run_that_is_kept_can_be_read_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    samples = [sample(0.1, 1.0), sample(0.1, 2.0, error="cut off")]
    run = kept("streamserve:cpu-pair+pairs=[[lane-0,lane-1]]", 2, samples).run
    watched = (Watched(0.5, {"lane-0": 1.5}, {"lane-0": 2}, {"lane-0": 0}),)
    made = Kept(replace(run, watched=watched), 0.0, 0.02, 3)
    assert folder.run(made.run.cell) is None
    folder.keep(made)
    assert folder.run(made.run.cell) == made
    assert [path.suffix for path in (tmp_path / "cells").iterdir()] == [".json"]


def test_a_run_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    made = kept("vllm", 0, [sample(0.1, 1.0)])
    folder.keep(made)
    (path,) = (tmp_path / "cells").iterdir()
    written = json.loads(path.read_bytes())
    del written["apart"]
    path.write_text(json.dumps(written))
    assert folder.run(made.run.cell) == made and not made.apart


def test_cells_of_one_contest_lie_apart() -> None:
    cells = [
        Cell(system, workload, arrivals, load, repeat)
        for system in ("vllm", "vllm-spec:3", "vllm-spec:5")
        for workload in ("mix", "sum")
        for arrivals in ("poisson", "gamma:5")
        for load in (0.5, 0.8)
        for repeat in (0, 1)
    ]
    assert len({cell.key for cell in cells}) == len(cells)


def test_a_folder_belongs_to_its_settings_and_to_what_else_decides(tmp_path: Path) -> None:
    folder, also = Folder(tmp_path), {"prompts": {"short": "80 prompts"}, "cores": 2}
    folder.claim(SETTINGS, also)
    folder.keep(kept("vllm", 0, [sample(0.1, 1.0)]))
    folder.claim(replace(SETTINGS, repeats=9, plots=False), also)
    assert folder.machine()["cores"] >= 1
    for settings, others in (
        (replace(SETTINGS, seed=1), also),
        (SETTINGS, also | {"prompts": {"short": "81 prompts"}}),
        (SETTINGS, also | {"cores": 4}),
    ):
        with pytest.raises(ConfigError, match="other settings"):
            folder.claim(settings, others)


def test_a_folder_belongs_to_what_lies_in_the_files_that_settings_name(tmp_path: Path) -> None:
    config, policy = tmp_path / "my.yaml", tmp_path / "policy"
    policy.mkdir()
    named = replace(SETTINGS, systems=(f"streamserve:{config}+policy={policy}", "vllm"))
    folder = Folder(tmp_path / "out")
    for file in (config, policy / "card.json"):
        file.write_text("before")
    folder.claim(named, {})
    folder.keep(kept("vllm", 0, [sample(0.1, 1.0)]))
    folder.claim(named, {})
    for file in (config, policy / "card.json"):
        file.write_text("after")
        with pytest.raises(ConfigError, match="other settings"):
            folder.claim(named, {})
        file.write_text("before")


def test_capacities_are_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.capacities() == {}
    folder.keep_capacities({"mix": 0.75})
    assert Folder(tmp_path).capacities() == {"mix": 0.75}


def test_a_start_that_measured_nothing_binds_nobody(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.claim(replace(SETTINGS, arrivals=("gamma:9",)), {})
    folder.claim(SETTINGS, {})
    folder.keep_capacities({"mix": 1.0})
    with pytest.raises(ConfigError, match="other settings"):
        folder.claim(replace(SETTINGS, seed=1), {})
