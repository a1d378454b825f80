"""The command line: what each command does with its options, and how errors end it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from typer.testing import CliRunner

from streamserve import chat, cli, picked
from streamserve.config import Config, names
from streamserve.errors import LaneStartError
from streamserve.machine import Machine
from streamserve.types import LaneId
from tests.test_doctor import LAPTOP

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def no_key_and_no_choice_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STREAMSERVE_API_KEY", raising=False)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setenv("STREAMSERVE_STATE", str(tmp_path / "state"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Puts a made-up machine in place of this one."""

    def put(made_up: Machine) -> None:
        monkeypatch.setattr("streamserve.machine.inspect_machine", lambda port=8000: replace(made_up, port=port))

    put(LAPTOP)
    return put


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, machine: object) -> list[Config]:
    """The configurations that a fake server was started with."""
    started: list[Config] = []

    def run(config: Config, startup: object, decision_log: Path | None, tensorboard: Path | None) -> None:
        started.append(config)

    put_server(monkeypatch, run)
    return started


def put_server(monkeypatch: pytest.MonkeyPatch, run: Callable[..., None]) -> None:
    module = ModuleType("streamserve.api.server")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "streamserve.api.server", module)


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit status of the console script."""
    monkeypatch.setattr(sys, "argv", ["streamserve", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    heavy = ["vllm", "torch", "transformers", "numpy", "httpx", "pynvml", "psutil", "rich.live"]
    code = f"import sys, streamserve.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("command", ["serve", "chat", "doctor", "configs", "bench"])
def test_each_command_has_help_with_examples(command: str) -> None:
    result = RUNNER.invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    after = lines[lines.index("Examples:") + 1 :]
    assert after[0].startswith("streamserve ")


def test_version() -> None:
    assert RUNNER.invoke(cli.app, ["--version"]).stdout == "streamserve 0.1.0\n"


def test_configs_lists_every_name_with_its_first_line() -> None:
    lines = RUNNER.invoke(cli.app, ["configs"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == names()
    assert "unified        One lane over all cores: plain vLLM behind StreamServe's front, no transfer." in lines


def test_serve_chooses_for_the_machine_and_says_why(served: list[Config]) -> None:
    result = RUNNER.invoke(cli.app, ["serve"])
    assert result.exit_code == 0, result.output
    assert "Configuration cpu-pair: chosen for 2 cores, no GPU to use; another with --config" in result.stdout
    assert [lane.id for lane in served[0].lanes] == ["lane-0", "lane-1"]
    assert served[0].model == "embedded"


def test_serve_takes_what_was_picked_here_for_the_model_and_says_so(served: list[Config], tmp_path: Path) -> None:
    choice = picked.Picked("cpu-pair", ["pairs=own"], "goodput 1.3 times better", "2026-11-23")
    picked.write(picked.path(), picked.key("embedded", 2, ()), choice)
    assert (tmp_path / "state" / "picked.yaml").exists()
    result = RUNNER.invoke(cli.app, ["serve", "--set", "engine.max_running=16"])
    assert (
        "Configuration cpu-pair: picked with pairs=own by `streamserve bench --pick` on 2026-11-23 "
        "(goodput 1.3 times better); another with --config" in result.stdout
    )
    RUNNER.invoke(cli.app, ["serve", "other/model"])
    RUNNER.invoke(cli.app, ["serve", "--config", "cpu-pair"])
    assert [config.pairs for config in served] == ["own", "all", "all"]
    assert served[0].engine.max_running == 16


def test_serve_looks_up_the_model_that_is_set(served: list[Config]) -> None:
    for model, pairs in (("embedded", "own"), ("my/model", "[[lane-0, lane-1]]")):
        made = picked.Picked("cpu-pair", [f"pairs={pairs}"], "", "2026-11-23")
        picked.write(picked.path(), picked.key(model, 2, ()), made)
    RUNNER.invoke(cli.app, ["serve", "--set", "model=other/model"])
    RUNNER.invoke(cli.app, ["serve", "--set", "model=other/model", "--set", "model=my/model"])
    RUNNER.invoke(cli.app, ["serve", "embedded", "--set", "model=my/model"])
    assert [(config.model, config.pairs) for config in served] == [
        ("other/model", "all"), ("my/model", [("lane-0", "lane-1")]), ("embedded", "own")
    ]  # fmt: skip


def test_serve_leaves_a_choice_that_this_machine_cannot_run(served: list[Config]) -> None:
    picked.write(picked.path(), picked.key("embedded", 2, ()), picked.Picked("gpu-shared", [], "", "2026-11-23"))
    result = RUNNER.invoke(cli.app, ["serve"])
    assert "Configuration cpu-pair: chosen for 2 cores" in result.stdout


def test_serve_says_how_many_cores_its_lanes_leave_idle(
    served: list[Config], machine: Callable[[Machine], None]
) -> None:
    machine(replace(LAPTOP, core_ids=tuple(range(64))))
    result = RUNNER.invoke(cli.app, ["serve"])
    assert "chosen for 64 cores, no GPU to use; its lanes leave 62 of them idle" in result.stdout


def test_serve_on_one_core_is_unified(served: list[Config], machine: Callable[[Machine], None]) -> None:
    machine(replace(LAPTOP, core_ids=(0,)))
    result = RUNNER.invoke(cli.app, ["serve"])
    assert "Configuration unified: chosen for 1 core" in result.stdout
    assert len(served[0].lanes) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host", "0.0.0.0"], True),
        (["--host", "0.0.0.0", "--api-key", "k"], False),
        (["--host", "127.0.0.1"], False),
        ([], False),
    ],
)
def test_serve_without_keys_beyond_this_machine_says_who_may_use_it(
    served: list[Config], options: list[str], told: bool
) -> None:
    said = RUNNER.invoke(cli.app, ["serve", *options]).stdout
    assert ("Anyone who reaches 0.0.0.0 may use this server" in said) == told


def test_serve_passes_every_option_on(served: list[Config]) -> None:
    options = ["--config", "unified", "--set", "engine.max_running=16", "--set", "server.port=1", "--port", "9000"]
    options += ["--host", "::1", "--api-key", "123", "--api-key", "yes", "--router", "round_robin"]
    result = RUNNER.invoke(cli.app, ["serve", "org/model: 1", *options])
    assert result.exit_code == 0, result.output
    (config,) = served
    assert (config.model, config.router, config.engine.max_running) == ("org/model: 1", "round_robin", 16)
    assert (config.server.host, config.server.port, config.server.api_keys) == ("::1", 9000, ["123", "yes"])


def test_serve_passes_the_decision_log_on(monkeypatch: pytest.MonkeyPatch, machine: object) -> None:
    logs: list[Path | None] = []

    def run(config: Config, startup: object, decision_log: Path | None, tensorboard: Path | None) -> None:
        logs.append(decision_log)

    put_server(monkeypatch, run)
    for options in ([], ["--decision-log", "why.jsonl"]):
        assert RUNNER.invoke(cli.app, ["serve", *options]).exit_code == 0
    assert logs == [None, Path("why.jsonl")]


def test_serve_passes_the_policy_and_the_tensorboard_folder_on(
    monkeypatch: pytest.MonkeyPatch, machine: object
) -> None:
    asked: list[tuple[str, str, Path | None]] = []

    def run(config: Config, startup: object, decision_log: Path | None, tensorboard: Path | None) -> None:
        asked.append((config.policy.source, config.policy.mode, tensorboard))

    put_server(monkeypatch, run)
    for options in (
        [],
        ["--policy", "heuristic"],
        ["--policy", "runs/a, b", "--set", "policy.mode=shadow"],
        ["--policy", "auto,canary:0.1", "--tensorboard", "runs/serve"],
    ):
        result = RUNNER.invoke(cli.app, ["serve", *options])
        assert result.exit_code == 0 or "policy mode" in str(result.exception), result.output
    assert asked == [
        ("auto", "learned", None),
        ("heuristic", "learned", None),
        ("auto", "canary:0.1", Path("runs/serve")),
    ]


def test_the_ready_block_asks_for_the_key_that_was_set(monkeypatch: pytest.MonkeyPatch, machine: object) -> None:
    def run(config: Config, startup: object, decision_log: Path | None, tensorboard: Path | None) -> None:
        lane = LaneId("lane-0")
        startup.ready("http://127.0.0.1:8000", "tiny", [lane], [(lane, lane)])  # type: ignore[attr-defined]

    put_server(monkeypatch, run)
    assert "$STREAMSERVE_API_KEY" in RUNNER.invoke(cli.app, ["serve"], env={"STREAMSERVE_API_KEY": "k"}).stdout
    assert "$STREAMSERVE_API_KEY" not in RUNNER.invoke(cli.app, ["serve"]).stdout


def test_a_wrong_configuration_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], served: list[Config]
) -> None:
    assert run_main(monkeypatch, "serve", "--set", "engine.max_runing=1") == 2
    assert capsys.readouterr().err == "error: cpu-pair: no key 'max_runing' in engine; did you mean 'max_running'?\n"
    assert served == []


def test_an_error_of_ours_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine: object
) -> None:
    def run(config: Config, startup: object, decision_log: Path | None, tensorboard: Path | None) -> None:
        raise LaneStartError("lane-0 [red]did not start:\n see its log")

    put_server(monkeypatch, run)
    assert run_main(monkeypatch, "serve") == 1
    assert capsys.readouterr().err == "error: lane-0 [red]did not start: see its log\n"


def test_a_machine_that_can_run_nothing_is_told_why(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    machine: Callable[[Machine], None],
    served: list[Config],
) -> None:
    machine(replace(LAPTOP, packages={}))
    assert run_main(monkeypatch, "serve") == 1
    assert "(vLLM is not installed): see `streamserve doctor`" in capsys.readouterr().err
    assert served == []


def test_ctrl_c_ends_quietly_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine: object
) -> None:
    def run(config: Config, startup: object, decision_log: Path | None, tensorboard: Path | None) -> None:
        raise KeyboardInterrupt

    put_server(monkeypatch, run)
    assert run_main(monkeypatch, "serve") == 130
    assert capsys.readouterr().err == ""


def test_an_unexpected_exception_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, machine: object) -> None:
    def run(config: Config, startup: object, decision_log: Path | None, tensorboard: Path | None) -> None:
        raise ZeroDivisionError("a bug")

    put_server(monkeypatch, run)
    monkeypatch.setattr(sys, "argv", ["streamserve", "serve"])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main()


def test_doctor_says_what_runs_and_recommends(machine: Callable[[Machine], None]) -> None:
    machine(replace(LAPTOP, port_free=False))
    result = RUNNER.invoke(cli.app, ["doctor", "--port", "9000"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    warning = lines.index("  warning  port 9000 is taken")
    assert lines[warning + 1].strip().startswith("stop its owner")
    assert "  no   cpu-two-pairs  needs 4 cores; this process has 2 (0-1)" in lines
    assert lines[-2:] == ["Recommended for 2 cores, no GPU to use", "  streamserve serve --config cpu-pair"]


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_doctor_refuses_a_port_that_is_none(port: str) -> None:
    assert RUNNER.invoke(cli.app, ["doctor", "--port", port]).exit_code == 2


def test_doctor_fails_where_nothing_can_be_served(machine: Callable[[Machine], None]) -> None:
    machine(replace(LAPTOP, packages={}))
    result = RUNNER.invoke(cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "Nothing can be served here yet" in result.stdout


def test_doctor_gives_the_same_as_json(machine: object) -> None:
    report = json.loads(RUNNER.invoke(cli.app, ["doctor", "--json"]).stdout)
    assert report["machine"]["core_ids"] == [0, 1]
    assert {finding["level"] for finding in report["findings"]} == {"ok"}
    assert [entry["config"] for entry in report["configs"] if not entry["obstacles"]] == ["cpu-pair", "unified"]
    assert report["command"] == "streamserve serve --config cpu-pair"


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The bodies that `streamserve chat` posts to a server that answers 'Hello'."""
    asked: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "tiny"}]})
        asked.append(json.loads(request.content))
        return httpx.Response(200, text='data: {"choices":[{"delta":{"content":"Hello"}}]}\n\ndata: [DONE]\n\n')

    client = httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))
    monkeypatch.setattr(chat, "connect", lambda url, api_key: client)
    return asked


def test_chat_answers_a_prompt_on_stdout_and_its_summary_on_stderr(questions: list[dict[str, object]]) -> None:
    result = RUNNER.invoke(cli.app, ["chat", "Hi", "--max-tokens", "9", "--temperature", "0", "--system", "Brief."])
    assert (result.exit_code, result.stdout) == (0, "Hello\n")
    assert result.stderr.startswith("TTFT ")
    (body,) = questions
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 9, 0)
    assert body["messages"] == [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Hi"}]


def test_chat_asks_what_is_piped_in(questions: list[dict[str, object]]) -> None:
    assert RUNNER.invoke(cli.app, ["chat", "--model", "other"], input="What?\n").stdout == "Hello\n"
    assert questions[0]["model"] == "other"
    assert questions[0]["messages"] == [{"role": "user", "content": "What?\n"}]


def test_an_empty_prompt_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], questions: list[dict[str, object]]
) -> None:
    assert run_main(monkeypatch, "chat", " ") == 2
    assert "the prompt is empty" in capsys.readouterr().err
    assert questions == []
