"""`streamserve simulate`: topologies, plans, what is refused, and a whole study from command line to files."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from streamserve import cli
from streamserve.bench import simulate, simulated, workloads
from streamserve.bench.planner import Cell
from streamserve.bench.simulate import Study
from streamserve.bench.workloads import Workload
from streamserve.config import Config, LaneConfig, SchedulerConfig
from streamserve.errors import ConfigError
from streamserve.lanes.sim import calibration as calibrations
from streamserve.simulation.options import SimOptions
from streamserve.types import LaneId
from tests.calibrations import example

A, B = LaneId("a"), LaneId("b")
CONFIG = Config(lanes=[LaneConfig(A), LaneConfig(B)], model="example")
CALIBRATION = example()
CELL = Cell("poisson", 0.5, 0)
STUDY = Study(CONFIG, CALIBRATION, SimOptions(), Workload(lengths="40:12"), requests=20, loads=(0.5,))


def quiet(_line: str) -> None:
    """Says nothing."""


def run(study: Study) -> list[simulated.Simulated]:
    return simulate.run(study, workloads.plans(study.workload), quiet)


def test_lanes_are_replicated_with_their_pairs() -> None:
    made = simulate.replicated(CONFIG, 3)
    assert [lane.id for lane in made.lanes] == ["lane-0", "lane-1", "lane-2"]
    assert len(made.stream_pairs()) == 9
    listed = simulate.replicated(msgspec.structs.replace(CONFIG, pairs=[(A, B)]), 4)
    assert listed.stream_pairs() == (("lane-0", "lane-1"), ("lane-2", "lane-3"))
    with pytest.raises(ConfigError, match="multiple of 2"):
        simulate.replicated(msgspec.structs.replace(CONFIG, pairs=[(A, B)]), 3)
    with pytest.raises(ConfigError, match="at least 1"):
        simulate.replicated(CONFIG, 0)


def test_speeds_and_failures_are_read_from_text() -> None:
    assert simulate.speeds("1,0.5", simulate.replicated(CONFIG, 3)) == {"lane-0": 1.0, "lane-1": 0.5, "lane-2": 1.0}
    assert simulate.failures(["a@3.5"]) == ((3.5, "a"),)
    with pytest.raises(ConfigError, match="numbers with commas"):
        simulate.speeds("fast", CONFIG)
    with pytest.raises(ConfigError, match="LANE@SECONDS"):
        simulate.failures(["a"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"routers": ("flowguard", "wise")}, "no router 'wise'"),
        ({"routers": ("hindsight:some",)}, "hindsight:TRIES"),
        ({"routers": ("flowguard+policy=here",)}, "streamserve evaluate"),
        ({"routers": ("flowguard+quick",)}, "'quick' is none of direct, late, own or an order"),
        ({"arrivals": ("often",)}, "no process 'often'"),
        ({"loads": (0.5, 0.0)}, "--loads must be above 0"),
        ({"loads": (), "rate": -1.0}, "--rate must be above 0"),
        ({"rate": 1.0}, "give one of them"),
        ({"seeds": 0}, "at least 1"),
        ({"options": SimOptions(speeds={LaneId("c"): 1.0})}, "no lane c"),
        ({"calibration": msgspec.structs.replace(CALIBRATION, origin=msgspec.structs.replace(
            CALIBRATION.origin, model="other"))}, "measured with model 'other'"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_runs(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate.check(replace(STUDY, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (Workload(length_scale=0.0), "--length-scale must be above 0"),
        (Workload(multi_turn=True), "--multi-turn strings prompts together"),
        (Workload(lengths="many"), "PROMPT_TOKENS:OUTPUT_TOKENS"),
        (Workload(prompts=Path("nowhere")), "no .jsonl file"),
        (Workload(trace=Path("nowhere.csv")), "cannot be read"),
    ],
)
def test_workloads_that_cannot_be_are_refused(workload: Workload, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        workloads.plans(workload)


def test_plans_of_lengths_repeat_and_have_their_rate() -> None:
    plans = workloads.plans(Workload(lengths="40:12"))
    assert plans.cell(CELL, 2.0, 30) == plans.cell(CELL, 2.0, 30)
    assert plans.cell(CELL, 2.0, 30)[-1].arrival_s == pytest.approx(30.0)
    assert {each.arrival_s for each in plans.burst(5, 0)} == {0.0}
    assert plans.cell(Cell("poisson", 0.5, 1), 2.0, 30) != plans.cell(CELL, 2.0, 30)


def test_a_folder_of_prompts_needs_no_tokenizer_and_keeps_what_conversations_share(tmp_path: Path) -> None:
    for name in ("chat", "facts"):
        lines = [
            {"id": f"{name}-{i}", "prompt": f"{name} {i} " * 9, "max_tokens": 6, "reference": "so"} for i in range(9)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = workloads.plans(Workload(prompts=tmp_path, multi_turn=True, turns=3)).cell(CELL, 2.0, 12)
    shares = [any(other is not each and other.prompt_token_ids[:15] == each.prompt_token_ids[:15] for other in made)
              for each in made]  # fmt: skip
    assert (len(made), all(shares)) == (12, True)


def test_a_study_gives_every_system_the_same_arrivals_and_repeats_itself() -> None:
    study = replace(STUDY, routers=("flowguard", "round_robin+direct"), seeds=2)
    made = run(study)
    assert [(each.system, each.seed) for each in made] == [(s, i) for i in range(2) for s in study.routers]
    assert made[0].rate == made[1].rate
    assert [each.e2e_s for each in made] == [each.e2e_s for each in run(study)]
    assert made[0].e2e_s != made[2].e2e_s
    text = simulated.text(made)
    assert "## poisson, load 0.5" in text
    assert "| round_robin+direct | " in text
    assert all(each.cpu_s > 0 and each.decision_us[0] > 0 for each in made)


def test_requests_that_are_refused_make_nothing_look_faster(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, scheduler=SchedulerConfig(max_dispatched=1, max_queued=1))
    (made,) = run(replace(STUDY, config=config, loads=(3.0,)))
    assert 0 < made.summary.failed == 20 - len(made.e2e_s)
    assert min(made.e2e_s) > 0
    text = simulated.text([made])
    assert "| flowguard | * " in text
    assert text.endswith("\n* of the requests that were served; see failed\n")


def test_hindsight_is_a_system_and_no_worse_than_the_heuristic() -> None:
    study = replace(STUDY, routers=("flowguard", "hindsight:6:p99"), loads=(0.9,))
    heuristic, bound = run(study)
    assert heuristic.summary.e2e is not None and bound.summary.e2e is not None
    assert bound.summary.e2e.p99_s <= heuristic.summary.e2e.p99_s
    assert bound.summary.requests == heuristic.summary.requests


def test_a_trace_is_replayed_at_its_own_speed_or_at_another(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{2 * i},50,9\n" for i in range(20)))
    study = replace(STUDY, workload=Workload(trace=path), loads=())
    (recorded,) = run(study)
    assert recorded.rate == pytest.approx(20 / 38)
    assert simulate.keep([recorded], study, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "simulate.json").read_bytes())["settings"]["workload"]["trace"] == str(path)
    (faster,) = run(replace(study, rate=1.0))
    assert faster.rate == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="--trace has 20 requests"):
        run(replace(study, requests=30))


def test_the_calibration_is_found_by_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(calibrations, "calibration_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match="none yet"):
        simulate.found(None, CONFIG)
    (tmp_path / "one.yaml").write_text(calibrations.dump(CALIBRATION))
    assert simulate.found(None, CONFIG) == CALIBRATION
    with pytest.raises(ConfigError, match="name a calibration of model 'embedded'"):
        simulate.found(None, msgspec.structs.replace(CONFIG, model="embedded"))
    (tmp_path / "two.yaml").write_text(calibrations.dump(CALIBRATION))
    with pytest.raises(ConfigError, match="one, two"):
        simulate.found(None, CONFIG)


def test_the_command_prints_a_table_and_leaves_json_and_plots(tmp_path: Path) -> None:
    calibration = tmp_path / "calibration.yaml"
    calibration.write_text(calibrations.dump(CALIBRATION))
    out = tmp_path / "out"
    arguments = ["simulate", "--set", "model=example", "--calibration", str(calibration), "--requests", "12"]
    arguments += ["--lengths", "40:12", "--routers", "flowguard,random", "--loads", "0.5,0.9", "--lanes", "3"]
    arguments += ["--fail", "lane-1@0.3", "--restart", "0.1", "--set", "scheduler.restart_backoff_s=[0.1]"]
    ended = CliRunner().invoke(cli.app, [*arguments, "--speeds", "1,0.5", "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    assert "## poisson, load 0.9" in ended.output
    kept = json.loads((out / "simulate.json").read_bytes())
    assert [(each["load"], each["system"]) for each in kept["runs"]] == [
        (0.5, "flowguard"), (0.5, "random"), (0.9, "flowguard"), (0.9, "random")
    ]  # fmt: skip
    assert {each["summary"]["requests"] for each in kept["runs"]} == {12}
    assert kept["runs"][0]["restarts"] == 1
    assert kept["settings"]["calibration"]["host"] == "example"
    assert (out / "report.md").read_text() in ended.output
    assert sorted(path.name for path in out.glob("*.png")) == [
        "e2e-poisson-0.5.png", "e2e-poisson-0.9.png", "load-poisson.png"
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = CliRunner().invoke(cli.app, ["simulate", "--requests", "2", "--out", str(tmp_path / "file")])
    assert isinstance(ended.exception, ConfigError) and "give --out another folder" in str(ended.exception)
    assert "capacity" not in ended.output
