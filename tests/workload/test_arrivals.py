"""Arrival processes: their rates, their bursts, their order, and the traces that are refused."""

import gzip
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.errors import ConfigError
from streamserve.workload import arrivals

N = 20_000
SPECS = ["poisson", "gamma:0.5", "gamma:5", "mmpp:1,9:2", "diurnal:0.8:20"]


def first(spec: str, rate: float, seed: int = 0, n: int = N) -> list[float]:
    return list(islice(arrivals.parse(spec).times(rate, np.random.default_rng(seed)), n))


def cv(times_s: list[float]) -> float:
    gaps = np.diff(times_s)
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize("spec", SPECS)
def test_the_mean_rate_is_what_was_asked_for(spec: str) -> None:
    times_s = first(spec, rate=2.5)
    tolerance = 0.12 if spec in ("gamma:5", "mmpp:1,9:2") else 0.03
    assert N / times_s[-1] == pytest.approx(2.5, rel=tolerance)


@pytest.mark.parametrize(("spec", "expected"), [("poisson", 1.0), ("gamma:0.5", 0.5), ("gamma:5", 5.0)])
def test_gaps_have_the_coefficient_of_variation_asked_for(spec: str, expected: float) -> None:
    assert cv(first(spec, rate=1.0)) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("spec", ["mmpp:1,9:2", "diurnal:0.8:20"])
def test_changing_rates_make_more_bursts_than_poisson(spec: str) -> None:
    assert cv(first(spec, rate=4.0)) > 1.1


def test_a_diurnal_process_is_busier_by_day() -> None:
    phases = np.array(first("diurnal:0.8:100", rate=5.0)) % 100
    day, night = np.count_nonzero(phases < 50), np.count_nonzero(phases >= 50)
    assert day / night == pytest.approx((50 + 0.8 * 100 / np.pi) / (50 - 0.8 * 100 / np.pi), rel=0.1)


def test_mmpp_may_fall_silent() -> None:
    times_s = first("mmpp:0,1:5", rate=10.0, n=2000)
    assert max(np.diff(times_s)) > 1.0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SPECS), st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_times_are_sorted_positive_and_the_seed_s(spec: str, rate: float, seed: int) -> None:
    times_s = first(spec, rate, seed, n=50)
    assert times_s == sorted(times_s)
    assert times_s[0] >= 0
    assert times_s == first(spec, rate, seed, n=50)
    assert times_s != first(spec, rate, seed + 1, n=50)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).map(sorted), st.floats(0.01, 100))
def test_stretching_gives_the_exact_rate_and_keeps_the_pattern(times_s: list[float], rate: float) -> None:
    stretched = arrivals.stretched(times_s, rate)
    if times_s[-1] > 1e-6:
        assert stretched[-1] == pytest.approx(len(times_s) / rate)
        assert stretched == pytest.approx([each * stretched[-1] / times_s[-1] for each in times_s])
    assert stretched == sorted(stretched)


def write(folder: Path, *lines: str) -> Path:
    path = folder / "trace.csv"
    path.write_text("\n".join(["arrival_s,prompt_tokens", *lines]))
    return path


def test_a_trace_is_played_from_its_start_at_its_scale(tmp_path: Path) -> None:
    path = write(tmp_path, "0,5", "2,5", "2,5", "6,5")
    assert list(arrivals.trace(path)) == [0, 2, 2, 6]
    assert list(arrivals.trace(path, rate_scale=2, start_s=2)) == [0, 0, 2]


def test_a_trace_is_brought_to_the_rate_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "0,5", "2,5", "4,5", "8,5")
    assert first(f"trace:{path}", rate=1.0) == [0, 1, 2, 4]
    assert first(f"trace:{path}@2", rate=1.0) == [0, 1, 3]


def test_a_trace_may_be_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(b"hash_ids,arrival_s\n1 2,0.5\n3,1.5\n"))
    assert list(arrivals.trace(path)) == [0.5, 1.5]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0,1", "2,1", "1,1"], "line 4: arrival_s goes back"),
        (["-1,1"], "not negative"),
        (["nan,1"], "finite"),
        (["inf,1"], "finite"),
        (["soon,1"], "a number"),
        ([",1"], "a number"),
        ([], "no arrival"),
    ],
)
def test_a_trace_with_bad_times_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arrivals.trace(write(tmp_path, *lines))


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("at\n1\n")
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(b"arrival_s\n1\n")
    for path, message in ((other, "no column"), (broken, "cannot be read"), (tmp_path / "none.csv", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            arrivals.trace(path)


def test_a_trace_cannot_start_after_its_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start inside"):
        arrivals.trace(write(tmp_path, "0,1", "2,1"), start_s=3)
    with pytest.raises(ConfigError, match="no rate"):
        first(f"trace:{write(tmp_path, '0,1', '2,1')}@2", rate=1.0)


@pytest.mark.parametrize(
    "spec",
    [
        *["", "poison", "poisson:1", "gamma", "gamma:x", "gamma:0", "gamma:nan", "mmpp:1,2", "mmpp:0,0:1"],
        *["mmpp:-1,2:1", "diurnal:0.5", "diurnal:-1:5", "trace:", "trace:a.csv@x"],
    ],
)
def test_a_spec_that_means_nothing_is_refused_with_what_to_write(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"write poisson|above 0|at least one"):
        arrivals.parse(spec)


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: arrivals.poisson(0, rng),
        lambda rng: arrivals.gamma(1, float("nan"), rng),
        lambda rng: arrivals.mmpp([1, -1, 3], 1, rng),
        lambda rng: arrivals.diurnal(1, 1.5, 1, rng),
    ],
)
def test_impossible_parameters_are_refused(make: Callable[[np.random.Generator], Iterator[float]]) -> None:
    with pytest.raises(ConfigError):
        next(make(np.random.default_rng(0)))
