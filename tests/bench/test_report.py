"""What a benchmark leaves behind."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.bench import report
from streamserve.bench.batch import Rate
from streamserve.bench.figures import Spread, quantile, ratio, spread
from streamserve.errors import ConfigError


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rate.json"
    assert report.read(path, Rate) is None
    report.write(path, Rate(3, 1.5))
    assert report.read(path, Rate) == Rate(3, 1.5)
    assert [each.name for each in path.parent.iterdir()] == ["rate.json"]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rate.json").write_text('{"tokens": "many"}')
    with pytest.raises(ConfigError, match="another folder"):
        report.read(tmp_path / "rate.json", Rate)


def test_a_folder_belongs_to_its_settings(tmp_path: Path) -> None:
    report.claim(tmp_path, {"lanes": 2, "loads": (0.5, 0.8)})
    report.claim(tmp_path, {"lanes": 2, "loads": (0.5, 0.8)})
    with pytest.raises(ConfigError, match="other settings"):
        report.claim(tmp_path, {"lanes": 4, "loads": (0.5, 0.8)})


def test_a_folder_belongs_to_its_machine_and_versions_on_any_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = report.machine()
    report.claim(tmp_path, {})
    monkeypatch.setattr(report, "machine", lambda: here | {"date": "another day"})
    report.claim(tmp_path, {})
    monkeypatch.setattr(report, "machine", lambda: here | {"processor": "another"})
    with pytest.raises(ConfigError, match="another machine or of other versions"):
        report.claim(tmp_path, {})


def test_a_table_is_markdown() -> None:
    assert report.table(["a", "b"], [["x", 1.23456], [2, None]]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x | 1.23 |",
        "| 2 | None |",
    ]


def test_a_slug_is_a_file_s_name() -> None:
    assert report.slug("trace:/some/where.csv@5") == "trace_some_where.csv_5"


def test_a_cumulative_curve_ends_at_one() -> None:
    assert report.cumulative([3.0, 1.0]) == ([1.0, 3.0], [0.5, 1.0])


def test_the_machine_is_named_with_its_versions() -> None:
    machine = report.machine()
    assert machine["cores"] >= 1
    assert {"streamserve", "python", "numpy"} <= machine["versions"].keys()


def test_a_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert report.plot(tmp_path / "a.png", "title", ("x", "y"), {"one": ([1, 2], [3, 4])})
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_taken_pair_by_pair() -> None:
    assert ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0]).median == 2.0
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0, 1)
    assert spread([4.0, 1.0, 2.0, 5.0]) == Spread(3.0, 1.75, 4.25, 4)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-6, abs=1e-6)


def test_an_infinite_value_is_the_last_and_makes_nothing_undefined() -> None:
    inf = float("inf")
    assert spread([1.0, inf, 2.0, 3.0, 4.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([1.0, 2.0, 3.0, inf, inf]) == Spread(3.0, 2.0, inf, 5)
    assert spread([inf, inf]) == Spread(inf, inf, inf, 2)
    assert quantile([1.0, 2.0, inf], 0.5) == 2.0 and quantile([1.0, 2.0, inf], 0.51) == inf


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    assert report.made(tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="give --out another folder"):
            report.made(folder)
        with pytest.raises(ConfigError, match="give --out another folder"):
            report.claim(folder, {})
