"""What a contest's runs say: within repeats, against the best vLLM system, beside the noise."""

from dataclasses import replace
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


def runs(repeats: int = 3, **where: Any) -> list[Kept]:
    """Repeats on a machine that slows down; the systems keep their order and their distance."""
    return [
        kept(label, repeat, quick(factor, repeat), **where)
        for repeat in range(repeats)
        for label, factor in FACTORS.items()
    ]


def winners(made: list[Kept], labels: list[str]) -> dict[str, str]:
    """Metric -> what the report says of who wins."""
    about = replace(ABOUT, titles=dict.fromkeys(labels, ""))
    rows = [line.strip("| ").split(" | ") for line in report.text(made, SETTINGS, about).splitlines()]
    head = next(place for place, cells in enumerate(rows) if cells[0] == "load")
    return dict(zip(rows[head], rows[head + 2], strict=True))


def test_ratios_are_within_repeats_and_against_the_best_vllm_system() -> None:
    systems = compare.grouped(runs(5), SETTINGS)[POINT]
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


def test_a_run_over_a_pause_is_left_out_with_its_pair() -> None:
    made = [*runs(), kept("streamserve", 3, quick(9.0, 3), gap_s=5.0), kept("vllm-spec", 3, quick(1.0, 3))]
    found = compare.verdict(compare.grouped(made, SETTINGS)[POINT], "streamserve", E2E_P99, LABELS)
    assert found is not None and found.times.n == 3
    assert "| runs left out, as the machine paused | 1 of 14 |" in report.text(made, SETTINGS, ABOUT)


def test_the_report_is_one_page_with_all_that_was_asked() -> None:
    text = report.text(runs(5), SETTINGS, ABOUT)
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


def test_failed_and_unfinished_requests_are_counted_and_what_lacks_them_is_marked() -> None:
    lost = [sample(0.1, 1.0), sample(0.1, 1.0, error="cut off")]
    made = [kept("vllm", 0, lost), kept("streamserve", 0, quick(1.0, 0))]
    row = next(line for line in report.text(made, SETTINGS, ABOUT).splitlines() if line.startswith("| `vllm` | 0.1"))
    assert row.startswith("| `vllm` | 0.1 * | - | - | - | 0.09 * | 0.09 * | 0.09 * | 0.09 * | 0.09 * | 1 * | - |")
    assert row.endswith("| 0 | 1 | 1 |")
    told = compare.verdict(compare.grouped(made, SETTINGS)[POINT], "streamserve", E2E_MEAN, ["streamserve", "vllm"])
    assert str(told) == "0.727 * ~"


def test_who_loses_requests_does_not_win_by_those_that_are_left() -> None:
    lossy = [sample(0.01, 0.1), sample(0.01, 0.1, error="cut off")]
    made = [
        kept(label, repeat, of)
        for repeat in range(5)
        for label, of in (("streamserve", lossy), ("vllm", quick(1.0, repeat)))
    ]
    found = winners(made, ["streamserve", "vllm"])
    assert found["E2E p99, s"] == "`vllm`: 100 (100 .. 100) streamserve"
    assert found["ITL p99, s"].startswith("`streamserve`: ") and " * vllm" in found["ITL p99, s"]


def test_a_repeat_with_too_many_losses_is_worse_than_any_other() -> None:
    lossy = [sample(0.01, 0.1), sample(0.01, 0.1, error="cut off")]
    made = [kept("vllm", repeat, quick(1.0, repeat) if repeat % 2 else lossy) for repeat in range(5)]
    made += [kept("streamserve", repeat, quick(1.0, repeat)) for repeat in range(5)]
    text = report.text(made, SETTINGS, replace(ABOUT, titles=dict.fromkeys(["streamserve", "vllm"], "")))
    (row,) = [line for line in text.splitlines() if line.startswith("| `vllm` | 0.01 (0.01 .. 0.2) *")]
    assert "| - (6.97 .. -) | 2.2 " in row


def test_the_winner_is_compared_with_the_second_of_all() -> None:
    """Among configurations of StreamServe too, where the first is the best."""
    labels = ["streamserve:a", "streamserve:b", "streamserve:c"]
    made = [kept(label, r, quick(f, r)) for r in range(3) for label, f in zip(labels, (1.0, 2.0, 1.5), strict=True)]
    assert winners(made, labels)["E2E p99, s"] == "`streamserve:a`: 1.5 (1.5 .. 1.5) streamserve:c ~"
    assert winners(made[:1], labels[:1])["E2E p99, s"] == "`streamserve:a`"


def test_where_vllm_wins_it_is_said_how_far_streamserve_is_behind() -> None:
    factors = {"streamserve:a": 2.0, "streamserve:b": 3.0, "vllm": 1.25, "vllm-spec": 1.0}
    made = [kept(label, r, quick(factor, r)) for r in range(5) for label, factor in factors.items()]
    told = winners(made, list(factors))["E2E p99, s"]
    assert told == "`vllm-spec`: 1.25 (1.25 .. 1.25) vllm; `streamserve:a`: 0.5 (0.5 .. 0.5)"
    second = [each for each in made if each.run.cell.system != "vllm"]
    told = winners(second, ["streamserve:a", "streamserve:b", "vllm-spec"])["E2E p99, s"]
    assert told == "`vllm-spec`: 2 (2 .. 2) streamserve:a"


def test_systems_without_a_repeat_in_common_are_not_beyond_noise() -> None:
    made = [kept("streamserve", 0, quick(1.0, 0)), kept("vllm", 1, quick(9.0, 0))]
    assert winners(made, ["streamserve", "vllm"])["E2E p99, s"] == "`streamserve`: ~"


def test_the_capacity_that_was_given_is_told() -> None:
    given = replace(SETTINGS, workloads=("mix", "sum"), capacity={"mix": 1.9})
    text = report.text(runs(), given, replace(ABOUT, capacities={"mix": 1.9, "sum": 0.5}))
    row = "| capacity, requests/s | mix 1.9 (as given); sum 0.5 (streamserve; all requests at once) |"
    assert row in text
    everything = replace(SETTINGS, capacity={"*": 2.5})
    assert "| mix 2.5 (as given) |" in report.text(runs(), everything, replace(ABOUT, capacities={}))
    assert "| capacity, requests/s | - |" in report.text(runs(), SETTINGS, replace(ABOUT, capacities={}))


def test_runs_whose_system_was_started_for_them_are_told() -> None:
    made = [replace(each, apart=each.run.cell.repeat > 0) for each in runs()]
    assert (
        "| servers | started anew for every repeat, idle while another is measured; but for 8 of 12 runs started and "
        "stopped, as memory did not suffice |" in report.text(made, SETTINGS, ABOUT)
    )
    assert "but for" not in report.text(runs(), SETTINGS, ABOUT)
    assert "| servers | started and stopped for every run |" in report.text(made, replace(SETTINGS, apart=True), ABOUT)


def test_the_paper_s_definition_is_labelled_as_such() -> None:
    text = report.text(runs(arrivals="alone", workload="gsm8k", load=1.0), SETTINGS, ABOUT)
    assert "## The paper's own definition" in text and "latency ratio (paper)" in text
    assert "| gsm8k, one at a time | `streamserve` | 3 (3 .. 3) |" in text


def test_a_contest_without_a_single_answer_still_has_a_report() -> None:
    refused = [sample(0.1, 1.0, error="refused")]
    text = report.text([kept("vllm", 0, refused), kept("streamserve", 0, refused)], SETTINGS, ABOUT)
    assert "| mix, poisson, load 0.8 | - |" in text
    assert report.lines(compare.grouped([kept("vllm", 0, refused)], SETTINGS)[POINT], ["vllm", "other"]) == [
        "vllm: E2E mean, s -, E2E p99, s -, TTFT p99, s -, SLO goodput, 1/s 0, 1 of 1 requests lost", "other: no run"
    ]  # fmt: skip


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
    plots.draw(
        [*runs(load=0.5), *(kept("vllm", r, [sample(1, 2, error="cut off")]) for r in range(3))], SETTINGS, tmp_path
    )
    assert drawn["load-mix-poisson-E2E_p99_s.png"]["vllm"][0] == [0.5]
    assert drawn["load-mix-poisson-output_tokens_s.png"].keys() == FACTORS.keys()
    assert drawn["depth-streamserve-mix-poisson-0.5.png"] == {"lane-0": ([0.0, 1.0, 2.0], [2.0, 2.0, 2.0])}
    assert drawn["lanes-streamserve-mix-poisson-0.5.png"]["lane-1"][1] == pytest.approx([1.0, 1 / 2, 1 / 3])


def test_goodput_follows_the_slo() -> None:
    systems = compare.grouped(runs(), SETTINGS)[POINT]
    assert compare.median(systems["streamserve"], GOODPUT) == pytest.approx(0.4)
    assert compare.median(systems["vllm"], GOODPUT) == 0.0
    found = compare.verdict(systems, "streamserve", GOODPUT, ["streamserve", "vllm"])
    assert found is not None and found.times.high == MOST_TIMES
