"""The front benchmark from command line to report, over fake servers, and once over StreamServe's own front."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamserve.bench import front, front_report, fronts
from streamserve.bench.contest import commands
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.process import Process
from streamserve.bench.contest.systems import System
from streamserve.bench.front_client import Load
from streamserve.bench.front_report import Measured
from streamserve.bench.fronts import Bench
from streamserve.errors import ConfigError, SetupError

TINY = "--concurrency 2 --tokens 4 --repeats 2 --seconds 0 --warm-up 0 --out"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Place("embedded", (1,), tmp_path), (0,), lanes=3)


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every router is installed."""
    monkeypatch.setattr(commands, "_program", lambda name: name)


def test_a_router_stands_before_fake_servers_on_cores_of_its_own(bench: Bench, router: None) -> None:
    system = fronts.resolve("smg:round_robin", bench)
    *fakes, own = system.processes
    assert [fake.cores for fake in fakes] == [(0,)] * 3
    assert own.cores == (1,)
    assert own.stage > max(fake.stage for fake in fakes)
    assert all(f"http://127.0.0.1:{fake.port}" in own.argv for fake in fakes)
    assert "round_robin" in own.argv
    assert system.url == f"http://127.0.0.1:{own.port}"
    assert fronts.POLICY in fronts.resolve("vllm-router", bench).processes[-1].argv


def test_our_front_has_its_lanes_within(bench: Bench) -> None:
    (whole,) = fronts.resolve("streamserve", bench).processes
    (bare,) = fronts.resolve("application", bench).processes
    assert whole.cores == bare.cores == (1,)
    assert "--straight" in bare.argv and "--straight" not in whole.argv
    assert whole.argv[whole.argv.index("--lanes") + 1] == "3"


@pytest.mark.parametrize("name", ["nginx", "streamserve:round_robin", "direct:x"])
def test_other_names_are_told_what_there_is(bench: Bench, name: str) -> None:
    with pytest.raises(ConfigError, match="direct, streamserve, application, vllm-router, smg"):
        fronts.resolve(name, bench)


def test_only_routers_that_nobody_asked_for_are_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> str:
        raise SetupError(f"{name} is not installed")

    monkeypatch.setattr(commands, "_program", missing)
    assert [system.name for system in front.chosen(None, bench)] == ["direct", "streamserve", "application"]
    assert "smg is left out: smg is not installed" in capsys.readouterr().out
    assert [system.name for system in front.chosen(["application"], bench)] == ["direct", "application"]
    with pytest.raises(SetupError, match="smg is not installed"):
        front.chosen(["smg"], bench)


def test_client_and_server_share_a_core_only_where_there_is_one() -> None:
    assert front.halves([3]) == ((3,), (3,))
    assert front.halves([0, 1]) == ((0,), (1,))
    assert front.halves([0, 1, 2]) == ((0,), (1, 2))


def test_repeats_are_interleaved() -> None:
    made = front.cells([1, 64], [16, 128], 2)
    assert [each.repeat for each in made] == [0] * 4 + [1] * 4
    assert len(set(made)) == 8


def measured(name: str, e2e_ms: float, cpu_s: float, failed: int = 0) -> Measured:
    return Measured(name, 64, 16, Load(100 + failed, failed, 2.0, 0.5, 1.0, 2.0, e2e_ms, 2 * e2e_ms), cpu_s, 0.8)


def row(made: Sequence[Measured], name: str) -> dict[str, str]:
    text = front_report.text(made, {"smg": "SMG"}, {"interval_ms": 0.0, "prompt_words": 60, "lanes": 2})
    assert "## 64 streams of 16 tokens" in text
    assert "- `smg`: SMG" in text
    line = next(each for each in text.splitlines() if each.startswith(f"| {name} "))
    return dict(zip(front_report.HEADER, line.strip("| ").split(" | "), strict=True))


def test_what_is_added_is_taken_repeat_by_repeat() -> None:
    made = [measured("direct", 10, 0.0), measured("smg", 14, 0.5), measured("direct", 20, 0.0)]
    made += [measured("smg", 26, 0.7, failed=3)]
    cells = row(made, "smg")
    assert cells["requests/s"] == "50 (50 .. 50)"
    assert cells["added E2E p50, ms"].startswith("5 (")
    assert cells["added TTFT p50, ms"].startswith("0 (")
    assert cells["CPU ms/request"].startswith("6 (")
    assert float(cells["CPU us/token"]) == 375
    assert (cells["front busy"], cells["client busy"], cells["failed"]) == ("0.3", "0.4", "3")
    assert row(made, "direct")["added E2E p50, ms"] == "(15)"


def test_a_run_that_served_nothing_adds_nothing() -> None:
    nothing = Measured("smg", 64, 16, Load(2, 2, 1.0, 0.1, None, None, None, None), 0.1, 0.1)
    base = measured("direct", 10, 0.0)
    cells = row([base, nothing], "smg")
    assert (cells["added E2E p50, ms"], cells["failed"]) == ("nothing served", "2")
    assert row([base, nothing, base, measured("smg", 14, 0.5)], "smg")["added E2E p50, ms"] == "4 (4 .. 4)"


async def test_from_command_line_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, bench: Bench) -> System:
        port = bench.place.port()
        more = ["--interval-ms", "5"] if name == "slow" else []
        argv = (sys.executable, "-m", "streamserve.bench.fake_server", "--port", str(port), *more)
        process = Process(name, argv, port, f"http://127.0.0.1:{port}/health")
        return System(name, f"title of {name}", f"http://127.0.0.1:{port}", bench.place.model, (process,))

    monkeypatch.setattr(fronts, "resolve", resolve)
    options = front.arguments().parse_args([*TINY.split(), str(tmp_path), "--fronts", "slow"])
    text = await front.main(options)
    assert text == (tmp_path / "front.md").read_text()
    assert "title of slow" in text and "fronts on core" in text
    runs = json.loads((tmp_path / "front.json").read_text())["runs"]
    assert sorted(run["front"] for run in runs) == ["direct", "direct", "slow", "slow"]
    assert {(run["load"]["requests"], run["load"]["failed"]) for run in runs} == {(4, 0)}
    slow = [run for run in runs if run["front"] == "slow"]
    assert all(run["load"]["e2e_p50_ms"] >= 4 * 4 for run in slow)
    assert all(run["front_cpu_s"] == 0 for run in runs if run["front"] == "direct")


async def test_a_front_that_serves_nothing_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, bench: Bench) -> System:
        port = bench.place.port()
        argv = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path))
        process = Process(name, argv, port, f"http://127.0.0.1:{port}/")
        return System(name, name, f"http://127.0.0.1:{port}", bench.place.model, (process,))

    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "models").write_text(json.dumps({"data": [{"id": "none"}]}))
    monkeypatch.setattr(fronts, "resolve", resolve)
    options = front.arguments().parse_args([*TINY.split(), str(tmp_path), "--fronts", "direct"])
    with pytest.raises(SetupError, match="direct did not serve"):
        await front.main(options)


@pytest.mark.live
@pytest.mark.timeout(400)
async def test_streamserve_s_own_front(tmp_path: Path) -> None:
    options = front.arguments().parse_args([*TINY.split(), str(tmp_path), "--fronts", "streamserve"])
    await front.main(options)
    runs = json.loads((tmp_path / "front.json").read_text())["runs"]
    assert {(run["load"]["requests"], run["load"]["failed"]) for run in runs} == {(4, 0)}
    assert any(run["front_cpu_s"] > 0 for run in runs if run["front"] == "streamserve")
