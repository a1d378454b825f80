"""Learning curves of several runs together."""

from pathlib import Path

import msgspec
import pytest

from agents import curves
from agents.folder import Begun, Folder
from agents.rating import Rating, Ratings
from agents.recipe import Recipe


def a_run(runs: Path, name: str, gains: dict[int, float]) -> str:
    folder = Folder.new(name, Begun(Recipe(), 0, "streamserve train"), runs)
    rated = [Rating(steps, gain, gain - 0.1, gain + 0.1, [1.0]) for steps, gain in gains.items()]
    folder.trials.write_bytes(msgspec.json.encode(Ratings([7], [1.0], rated)))
    return str(folder.path)


def test_the_mean_is_of_what_all_runs_have(tmp_path: Path) -> None:
    one = curves.curve(Folder(Path(a_run(tmp_path, "one", {100: 0.0, 200: 0.1}))))
    two = curves.curve(Folder(Path(a_run(tmp_path, "two", {100: 0.04, 200: 0.3, 300: 0.9}))))
    mean = curves.means([one, two])
    assert {steps: each.value for steps, each in mean.items()} == pytest.approx({100: 0.02, 200: 0.2})
    assert all(each.low <= each.value <= each.high for each in mean.values())


def test_a_picture_and_a_table_come_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [a_run(tmp_path, name, {100: gain, 200: 0.1}) for name, gain in [("one", -0.021), ("two", 0.05)]]
    picture = tmp_path / "new" / "curves.png"
    assert curves.main([*runs, "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "| one | -2.1 | +10.0 |" in shown
    assert "| **mean** | +1.5 [" in shown


def test_a_run_that_was_never_compared_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Folder.new("early", Begun(Recipe(), 0, "streamserve train"), tmp_path)
    assert curves.main([str(folder.path)]) == 2
    assert "no comparison yet" in capsys.readouterr().err
