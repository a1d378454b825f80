"""`streamserve train | evaluate | tensorboard`: what their options become."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents import evaluate, installed, train
from agents.comparison import Table
from agents.folder import Begun, Folder
from agents.recipe import Recipe, load
from agents.train import Outcome
from streamserve import cli
from streamserve.bench import contrast
from streamserve.errors import ConfigError, SetupError
from streamserve.policy import store
from streamserve.policy.card import Deadlines
from tests.agents.test_live import BLOCKS
from tests.policy.policies import make_card, make_weights

RUNNER = CliRunner()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a fake of the training was called with; it says that it was stopped."""
    calls: list[tuple[Any, ...]] = []

    def fake(*given: Any) -> Outcome:
        calls.append(given)
        return Outcome(Folder(Path("runs/some")), 512, len(calls) < 2, None)

    monkeypatch.setattr(train, "train", fake)
    monkeypatch.setattr(train, "resume", fake)
    return calls


@pytest.mark.parametrize("command", ["train", "evaluate", "tensorboard"])
def test_each_command_has_help_with_examples(command: str) -> None:
    result = RUNNER.invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"streamserve {command}" in result.stdout.partition("Examples:")[2]


def test_help_of_the_commands_loads_no_training_library() -> None:
    heavy = ["torch", "stable_baselines3", "sb3_contrib", "gymnasium", "tensorboard", "matplotlib", "agents"]
    code = (
        "import sys; from typer.testing import CliRunner; from streamserve import cli\n"
        "for command in ('train', 'evaluate', 'tensorboard'): CliRunner().invoke(cli.app, [command, '--help'])\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_train_takes_options_over_its_recipe(trained: list[tuple[Any, ...]]) -> None:
    options = ["--config", "route", "--env", "Serve", "--total-timesteps", "9", "--set", "gamma=0.9", "--seed", "4"]
    result = RUNNER.invoke(cli.app, ["train", *options, "--name", "mine", "--runs", "elsewhere"])
    assert result.exit_code == 0, result.output
    ((recipe, seed, name, _, runs, extra),) = trained
    assert recipe == load("route", ["env=Serve", "n_timesteps=9", "gamma=0.9"])
    assert (seed, name, runs, extra) == (4, "mine", Path("elsewhere"), {})
    assert "512 steps" in result.stdout


def test_a_run_that_was_stopped_tells_how_it_goes_on(trained: list[tuple[Any, ...]], tmp_path: Path) -> None:
    Folder.new("some", Begun(Recipe(), 0, ""), tmp_path)
    RUNNER.invoke(cli.app, ["train"])
    result = RUNNER.invoke(cli.app, ["train", "--resume", "some", "--total-timesteps", "2000", "--runs", str(tmp_path)])
    assert result.exit_code == 130
    assert "--resume some" in result.stdout
    assert trained[1][:2] == ("some", 2000)


def test_real_lanes_come_with_the_plant_live(trained: list[tuple[Any, ...]]) -> None:
    result = RUNNER.invoke(cli.app, ["train", "--config", "live"])
    assert result.exit_code == 0, result.output
    assert set(trained[0][5]) == {"live"}


def test_evaluate_passes_every_option_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[evaluate.Asked] = []

    def fake(given: evaluate.Asked, _say: Any) -> Table:
        asked.append(given)
        return Table("flowguard", [])

    monkeypatch.setattr(evaluate, "evaluate", fake)
    options = ["--scenarios", "busy,slow lane", "--seeds", "3", "--requests", "9", "--baselines", "random"]
    result = RUNNER.invoke(cli.app, ["evaluate", "one", *options, "--prompts", "texts", "--arrivals", "gamma:2"])
    assert result.exit_code == 0, result.output
    (given,) = asked
    assert (given.policies, given.scenarios, given.seeds) == (["one"], ("busy", "slow lane"), 3)
    assert (given.requests, given.baselines, given.prompts, given.arrivals) == (9, ("random",), "texts", ["gamma:2"])
    assert given.tries == 0
    RUNNER.invoke(cli.app, ["evaluate", "one", "--oracle", "40", "--oracle-of", "p99", "--jobs", "2"])
    assert (asked[1].tries, asked[1].goal, asked[1].jobs, asked[1].requests) == (40, "p99", 2, 256)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    store.save(tmp_path / "mine", make_card("route", name="mine"), make_weights("route"))
    return tmp_path / "mine"


def test_a_policy_for_deadlines_is_judged_by_those_it_meets_on_real_lanes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(given: contrast.Contrast, told: Any) -> list[Any]:
        return [replace(each, runs={"flowguard": each.runs["flowguard"], "mine": each.runs["test"]}) for each in BLOCKS]

    store.save(tmp_path / "mine", make_card("route", name="mine", deadlines=Deadlines(3.0, 0.1)), make_weights("route"))
    monkeypatch.setattr(contrast, "measure", measure)
    line = ["evaluate", str(tmp_path / "mine"), "--live", "--prompts", "texts", "--out", str(tmp_path / "out")]
    result = RUNNER.invoke(cli.app, line)
    assert result.exit_code == 0, result.output
    assert "interquartile mean of the gain in SLO met" in result.stdout and "learning loses in none" in result.stdout


def test_a_live_evaluation_is_reported_kept_and_written_into_the_card(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[contrast.Contrast] = []

    async def measure(given: contrast.Contrast, told: Any) -> list[Any]:
        asked.append(given)
        told(1, 2, "one run")
        return [replace(each, runs={"flowguard": each.runs["flowguard"], "mine": each.runs["test"]}) for each in BLOCKS]

    monkeypatch.setattr(contrast, "measure", measure)
    out = policy.parent / "out"
    options = ["--repeats", "4", "--loads", "0.5,0.8", "--capacity", "1.5", "--prompts", "texts"]
    line = ["evaluate", str(policy), "--live", *options, "--length-scale", "0.5", "--out", str(out), "--write-scores"]
    result = RUNNER.invoke(cli.app, line)
    assert result.exit_code == 0, result.output
    (given,) = asked
    assert given.systems == {"flowguard": "flowguard", "mine": f"flowguard+policy={policy}"}
    assert (len(given.scenarios), given.repeats, given.requests) == (8, 4, 64)
    assert {"bursts, 0.5", "bursts, 0.8"} < set(given.scenarios)
    assert (given.capacity, given.length_scale, given.prompts) == (1.5, 0.5, Path("texts"))
    assert "**learning loses in 1 of 2**" in result.stdout and "one run" in result.stderr
    assert (out / "report.md").read_text() in result.stdout
    assert [score.scenario for score in store.load(policy).card.live] == ["bursts, 0.8", "steady, 0.8"]


@pytest.mark.parametrize("options", [[], ["--prompts", "texts", "--oracle", "9"]])
def test_a_live_evaluation_that_cannot_be_is_refused(policy: Path, options: list[str]) -> None:
    result = RUNNER.invoke(cli.app, ["evaluate", str(policy), "--live", *options])
    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["two"], "one by one"),
        (["--scenarios", "bursts"], "leave --scenarios out"),
        (["--live", "--prompts", "texts", "--scenarios", "bursts"], "leave --scenarios out"),
        (["--seeds", "5"], "--seeds 6 or more"),
    ],
)
def test_scores_that_would_say_too_much_are_not_written(options: list[str], message: str) -> None:
    result = RUNNER.invoke(cli.app, ["evaluate", "one", *options, "--write-scores"])
    assert isinstance(result.exception, ConfigError) and message in str(result.exception)


@pytest.mark.parametrize("few", [["--seeds", "10"], ["--jobs", "1"], ["--oracle-of", "p99"], ["--arrivals", "poisson"]])
def test_options_of_simulated_lanes_are_refused_on_real_ones(few: list[str]) -> None:
    result = RUNNER.invoke(cli.app, ["evaluate", "one", "--live", "--prompts", "texts", *few])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(f"{few[0]}: of simulated lanes, and these are real")


def test_options_of_real_lanes_are_refused_on_simulated_ones() -> None:
    for few in (["--repeats", "8"], ["--loads", "0.8"], ["--capacity", "2"], ["--length-scale", "1"]):
        result = RUNNER.invoke(cli.app, ["evaluate", "one", *few])
        assert isinstance(result.exception, ConfigError)
        assert str(result.exception).startswith(f"{few[0]}: of real lanes, and these are simulated")


def test_tensorboard_serves_this_machine_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    result = RUNNER.invoke(cli.app, ["tensorboard", "--logdir", str(tmp_path), "--port", "7000"])
    assert result.exit_code == 0
    text = " ".join(commands[0])
    assert "tensorboard.main" in text and f"--logdir {tmp_path}" in text
    assert "--host 127.0.0.1" in text and "--port 7000" in text
    missing = RUNNER.invoke(cli.app, ["tensorboard", "--logdir", str(tmp_path / "none")])
    assert isinstance(missing.exception, ConfigError)


def test_without_the_libraries_the_command_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "NEEDED", ("torch", "a_library_that_is_not_there"))
    result = RUNNER.invoke(cli.app, ["train"])
    assert isinstance(result.exception, SetupError)
    assert "a_library_that_is_not_there" in str(result.exception) and "streamserve[train]" in str(result.exception)
