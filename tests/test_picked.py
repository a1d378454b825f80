"""The file in which `streamserve bench --pick` leaves its choices."""

from pathlib import Path

import pytest

from streamserve import picked
from streamserve.errors import ConfigError
from streamserve.picked import Picked

ONE = Picked("cpu-pair", ["pairs=[[lane-0,lane-1]]"], "E2E p99 1.2 times better", "2026-11-23")
OTHER = Picked("unified", [], "goodput 1.5 times better", "2026-11-24")


def test_choices_are_kept_by_model_and_hardware(tmp_path: Path) -> None:
    file = tmp_path / "new" / "picked.yaml"
    assert picked.read(file) == {}
    picked.write(file, picked.key("embedded", 2, ()), ONE)
    picked.write(file, picked.key("org/model", 8, ("H200",)), OTHER)
    assert picked.read(file) == {"embedded, 2 cores": ONE, "org/model, H200": OTHER}
    picked.write(file, "embedded, 2 cores", OTHER)
    assert picked.read(file)["embedded, 2 cores"] == OTHER
    assert [path.name for path in file.parent.iterdir()] == ["picked.yaml"]


def test_a_choice_can_be_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "picked.yaml"
    assert not picked.forget(file, "embedded, 2 cores")
    picked.write(file, "embedded, 2 cores", ONE)
    assert picked.forget(file, "embedded, 2 cores")
    assert picked.read(file) == {}


@pytest.mark.parametrize("text", ["- a list", "a: {config: 3}", "a: {config: b", "a: 1"])
def test_a_file_that_is_none_says_what_to_do(tmp_path: Path, text: str) -> None:
    file = tmp_path / "picked.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="remove it, or give --config"):
        picked.read(file)


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--config"):
        picked.write(tmp_path / "file" / "picked.yaml", "key", ONE)


def test_the_file_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STREAMSERVE_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert picked.path() == tmp_path / "streamserve" / "picked.yaml"
    monkeypatch.setenv("STREAMSERVE_STATE", str(tmp_path / "own"))
    assert picked.path() == tmp_path / "own" / "picked.yaml"
