"""What a contest's runs say: within repeats, against the best vLLM system, beside the noise."""

from pathlib import Path
from typing import Any

import pytest

from streamserve.bench.contest import compare, plots, report
from streamserve.bench.contest.cell import Watched
from streamserve.bench.contest.folder import Kept
from streamserve.bench.contest.report import About
from streamserve.bench.contest.settings import Point, Settings
from streamserve.bench.contest.summary import E2E_MEAN, E2E_P99, GOODPUT, MOST_TIMES
from tests.bench.contest.hall import kept, quick, sample

SETTINGS = Settings(("streamserve", "vllm", "vllm-spec"), slo_ttft_s=0.25, slo_tpot_s=9.0)
POINT = Point("mix", "poisson", 0.8)
FACTORS = {"streamserve": 1.0, "vllm": 3.0, "vllm-spec": 2.0, "streamserve again": 1.01}
LABELS = list(FACTORS)
ABOUT = About(
    "streamserve bench --aa", "embedded", {"processor": "a CPU", "cores": 2, "versions": {"vllm": "0.32.0"}},
    {label: f"the system {label}" for label in LABELS}, {"mix": 0.75},
)  # fmt: skip


def runs(**where: Any) -> list[Kept]:
    """Three repeats on a machine that slows down; the systems keep their order and their distance."""
    return [
        kept(label, repeat, quick(factor, repeat), **where) for repeat in range(3) for label, factor in FACTORS.items()
    ]


def test_ratios_are_within_repeats_and_against_the_best_vllm_system() -> None:
    systems = compare.grouped(runs(), SETTINGS)[POINT]
    found = compare.verdict(systems, "streamserve", E2E_P99, LABELS)
    assert found is not None and found.rival == "vllm-spec"
    assert (found.times.median, found.times.low, found.times.high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.beyond_noise
    other = compare.verdict(systems, "vllm-spec", E2E_P99, LABELS)
    assert other is not None and other.rival == "vllm" and other.times.median == pytest.approx(1.5)


def test_noise_is_the_second_server_against_the_first() -> None:
    systems = compare.grouped(runs(), SETTINGS)[POINT]
    noise = compare.noise(systems, E2E_MEAN)
    assert noise is not None and noise.median == pytest.approx(1 / 1.01)
    assert compare.width(noise) == pytest.approx(1 - 1 / 1.01)
    assert compare.rivals(LABELS) == ["vllm", "vllm-spec"]
    assert compare.rivals(["streamserve", "streamserve:unified"]) == ["streamserve"]


@pytest.mark.parametrize("other", [[0.7, 1.3, 0.9], [1.001, 1.002, 1.003]])
def test_what_straddles_one_or_is_smaller_than_noise_is_marked(other: list[float]) -> None:
    made = [kept("vllm", repeat, quick(1.0, repeat)) for repeat in range(3)]
    made += [kept("streamserve", repeat, quick(1 / factor, repeat)) for repeat, factor in enumerate(other)]
    made += [kept("streamserve again", repeat, quick(1.0, repeat)) for repeat in range(3)]
    found = compare.verdict(compare.grouped(made, SETTINGS)[POINT], "streamserve", E2E_P99, ["streamserve", "vllm"])
    assert found is not None and not found.beyond_noise and str(found).endswith(") ~")


def test_two_repeats_are_never_beyond_noise() -> None:
    made = [kept(label, r, quick(factor, r)) for r in range(2) for label, factor in FACTORS.items()]
    found = compare.verdict(compare.grouped(made, SETTINGS)[POINT], "streamserve", E2E_P99, LABELS)
    assert found is not None and found.times.median == pytest.approx(2.0) and not found.beyond_noise


def test_a_run_over_a_pause_is_left_out_with_its_pair() -> None:
    made = [*runs(), kept("streamserve", 3, quick(9.0, 3), gap_s=5.0), kept("vllm-spec", 3, quick(1.0, 3))]
    found = compare.verdict(compare.grouped(made, SETTINGS)[POINT], "streamserve", E2E_P99, LABELS)
    assert found is not None and found.times.n == 3
    assert "| runs left out, as the machine paused | 1 of 14 |" in report.text(made, SETTINGS, ABOUT)


def test_the_report_is_one_page_with_all_that_was_asked() -> None:
    text = report.text(runs(), SETTINGS, ABOUT)
    for line in (
        "| command | `streamserve bench --aa` |",
        "| machine | a CPU, 2 cores |",
        "| versions | vllm 0.32.0 |",
        "| capacity, requests/s | mix 0.75 (streamserve; all requests at once) |",
        "| SLO | TTFT <= 0.25 s and TPOT <= 9 s |",
        "| `vllm-spec` | the system vllm-spec |",
        "## mix, poisson, load 0.8",
    ):
        assert line in text
    row = next(line for line in text.splitlines() if line.startswith("| mix, poisson, load 0.8 |"))
    assert "| `streamserve`: 2 (2 .. 2) vllm-spec |" in row
    assert next(line for line in text.splitlines() if line.startswith("| A/A: noise |")).count("| 0.99 (") == 6
    assert "paper" not in text


def test_failed_and_unfinished_requests_are_counted() -> None:
    lost = [sample(0.1, 1.0), sample(0.1, 1.0, error="cut off")]
    made = [kept("vllm", 0, lost), kept("streamserve", 0, quick(1.0, 0))]
    row = next(line for line in report.text(made, SETTINGS, ABOUT).splitlines() if line.startswith("| `vllm` | 0.1"))
    assert row.endswith("| 0 | 1 | 1 |")


def test_the_paper_s_definition_is_labelled_as_such() -> None:
    text = report.text(runs(arrivals="alone", workload="gsm8k", load=1.0), SETTINGS, ABOUT)
    assert "## The paper's own definition" in text and "latency ratio (paper)" in text
    assert "| gsm8k, one at a time | `streamserve` | 3 (3 .. 3) |" in text


def test_a_contest_without_a_single_answer_still_has_a_report() -> None:
    refused = [sample(0.1, 1.0, error="refused")]
    text = report.text([kept("vllm", 0, refused), kept("streamserve", 0, refused)], SETTINGS, ABOUT)
    assert "| mix, poisson, load 0.8 | - |" in text
    assert report.lines(compare.grouped([kept("vllm", 0, refused)], SETTINGS)[POINT], ["vllm"]) == [
        "vllm: SLO goodput, 1/s 0"
    ]


def test_pictures_are_drawn_of_loads_distributions_and_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def plot(path: Path, title: str, axes: tuple[str, str], series: Any) -> bool:
        path.write_bytes(b"drawn")
        drawn[path.name] = series
        return True

    monkeypatch.setattr("streamserve.bench.report.plot", plot)
    watched = tuple(Watched(float(i), {"lane-0": 2.0}, {"lane-0": i, "lane-1": 1}, {"lane-0": 0}) for i in range(3))
    made = [*runs(load=0.5), *runs()]
    first = made[0]
    cell = first.run
    made[0] = Kept(type(cell)(cell.cell, cell.rate, cell.duration_s, cell.samples, watched), 0.0, 0.0, 0)
    assert {path.name for path in plots.draw(made, SETTINGS, tmp_path)} == drawn.keys()
    assert drawn["cdf-E2E-mix-poisson-0.8.png"].keys() == FACTORS.keys()
    assert [len(each) for each in drawn["cdf-TTFT-mix-poisson-0.5.png"]["vllm"]] == [12, 12]
    assert drawn["load-mix-poisson-E2E_mean_s.png"]["streamserve"] == ([0.5, 0.8], pytest.approx([2.75, 2.75]))
    assert drawn["load-mix-poisson-output_tokens_s.png"].keys() == FACTORS.keys()
    assert drawn["depth-streamserve-mix-poisson-0.5.png"] == {"lane-0": ([0.0, 1.0, 2.0], [2.0, 2.0, 2.0])}
    assert drawn["lanes-streamserve-mix-poisson-0.5.png"]["lane-1"][1] == pytest.approx([1.0, 1 / 2, 1 / 3])


def test_goodput_follows_the_slo() -> None:
    systems = compare.grouped(runs(), SETTINGS)[POINT]
    assert compare.median(systems["streamserve"], GOODPUT) == pytest.approx(0.4)
    assert compare.median(systems["vllm"], GOODPUT) == 0.0
    found = compare.verdict(systems, "streamserve", GOODPUT, ["streamserve", "vllm"])
    assert found is not None and found.times.high == MOST_TIMES
