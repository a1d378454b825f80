"""The folder of a run: nothing is overwritten, and what was begun comes back."""

from pathlib import Path

import pytest

from agents.folder import Begun, Folder, free_name
from agents.recipe import Recipe
from streamserve.errors import ConfigError

BEGUN = Begun(Recipe(env="Serve", env_kwargs={"load": 0.5}), 3, "streamserve train --seed 3")


def test_what_was_begun_comes_back(tmp_path: Path) -> None:
    folder = Folder.new("one", BEGUN, tmp_path / "runs")
    assert Folder.of("one", tmp_path / "runs") == folder
    assert Folder.of(str(tmp_path / "runs" / "one"), tmp_path / "elsewhere") == folder
    assert folder.begun() == BEGUN


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    assert free_name("route", tmp_path) == "route-1"
    Folder.new("route-1", BEGUN, tmp_path)
    assert free_name("route", tmp_path) == "route-2"
    with pytest.raises(ConfigError, match="--resume route-1"):
        Folder.new("route-1", BEGUN, tmp_path)


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden"])
def test_names_that_are_no_folder_of_ours_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--name"):
        Folder.new(name, BEGUN, tmp_path)


def test_an_unknown_run_tells_the_known_ones(tmp_path: Path) -> None:
    Folder.new("route-1", BEGUN, tmp_path)
    with pytest.raises(ConfigError, match="route-1"):
        Folder.of("route-2", tmp_path)
