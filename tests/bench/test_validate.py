"""`streamserve validate`, simulated lanes standing in for live ones: what it writes, resumes and refuses."""

import json
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamserve import virtual
from streamserve.bench import fidelity, rig, validate
from streamserve.bench.validate import DRAWN, REPLAYED, Validation
from streamserve.config import Config, LaneConfig
from streamserve.errors import ConfigError
from streamserve.simulation.options import SimOptions
from streamserve.simulation.plant import simulated
from streamserve.simulation.run import maker
from streamserve.specustream.playback import Drafter, Output
from streamserve.types import LaneId
from tests.bench.test_fidelity import outcome
from tests.calibrations import example

CONFIG = Config(lanes=[LaneConfig(LaneId("lane-0")), LaneConfig(LaneId("lane-1"))], model="example")
CALIBRATION = example()
STARTS: list[Config] = []


class Tokenizer:
    def encode(self, messages: tuple[tuple[str, str], ...]) -> list[int]:
        return [ord(letter) for _, text in messages for letter in text]


@asynccontextmanager
async def stand_in(configs: Mapping[str, Config], progress: Any) -> AsyncIterator[Namespace]:
    """A rig whose lanes are simulated: their noise is another one than that of the runs that are compared to them."""
    (config,) = configs.values()
    STARTS.append(config)
    plant = simulated(config, CALIBRATION, SimOptions(seed=99), lambda result: None)
    await plant.start()
    yield Namespace(sets={name: rig.LaneSet(config, plant.lanes) for name in configs}, tokenizer=Tokenizer())
    await plant.aclose()


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Validation:
    STARTS.clear()
    monkeypatch.setattr(rig, "live", stand_in)
    monkeypatch.setattr(rig, "planned", maker(CALIBRATION))
    monkeypatch.setattr("streamserve.bench.validate.uvloop.run", virtual.run)
    # Shorter than a block: simulated lanes have no way in to forget prefixes by, as live ones have.
    for name in ("chat", "code"):
        lines = [{"id": f"{name}-{i}", "prompt": f"{name} {i} " * 2 * i, "max_tokens": 8 + 4 * i} for i in range(1, 9)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Validation(
        tmp_path,
        tmp_path / "out",
        routers=("flowguard", "random"),
        loads=(0.3, 0.8),
        requests=32,
        capacity=2.0,
        sim_seeds=3,
        drafts=DRAWN,
    )


def quiet(_line: str) -> None:
    """Says nothing."""


def run(given: Validation, calibration: Any = CALIBRATION) -> tuple[list[fidelity.Fidelity], fidelity.Order]:
    return validate.run(given, CONFIG, calibration, quiet)


def test_the_same_lanes_live_and_simulated_are_found_alike(given: Validation) -> None:
    compared, ranked = run(given)
    assert [(each.load, each.system) for each in sorted(compared, key=lambda each: (each.load, each.system))] == [
        (0.3, "flowguard"), (0.3, "random"), (0.8, "flowguard"), (0.8, "random")
    ]  # fmt: skip
    for each in compared:
        by_name = {metric.metric: metric for metric in each.metrics}
        assert abs(by_name["E2E mean, s"].error) < 0.15
        assert each.r is not None and each.r > 0.8
        assert by_name["E2E mean, s"].floor is not None
    assert len(ranked.winners) == 2
    report = (given.out / "report.md").read_text()
    assert "## Ranking by mean E2E" in report
    assert len(list((given.out / "live" / "runs").glob("*.json"))) == 2 * 2 * 2
    assert len(list((given.out / "simulated" / "runs").glob("*.json"))) == 2 * 2 * 3
    assert len(list((given.out / "plots").glob("*.png"))) == 4
    assert json.loads((given.out / "fidelity.json").read_bytes())["calibration"]["host"] == "example"


def test_live_runs_are_kept_and_another_calibration_needs_none(given: Validation) -> None:
    before, _ = run(given)
    assert len(STARTS) == 1
    step = msgspec.structs.replace(CALIBRATION.step, prompt_s=0.5)
    after, _ = run(given, msgspec.structs.replace(CALIBRATION, step=step))
    assert len(STARTS) == 1
    assert [each.metrics[0].live for each in after] == [each.metrics[0].live for each in before]
    assert after[0].metrics[0].error > 0.5 > before[0].metrics[0].error
    next((given.out / "live" / "runs").glob("*.json")).unlink()
    run(given)
    assert len(STARTS) == 2


def test_drafts_are_those_of_the_live_answers(given: Validation, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, _ = run(given)
    texts: list[list[Output]] = []

    def none_found(outputs: list[Output], drafters: list[Drafter], _calibration: Any) -> list[list[None]]:
        assert len(drafters) == len(CONFIG.lanes)
        texts.append(outputs)
        return [[None] * len(output.tokens) for output in outputs]

    monkeypatch.setattr(validate, "replayed", none_found)
    lines: list[str] = []
    found, _ = validate.run(replace(given, drafts=REPLAYED), CONFIG, CALIBRATION, lines.append)
    assert lines[1:] == ["simulated poisson 0.3, drafts replayed", "simulated poisson 0.8, drafts replayed"]
    assert len(texts) == len(given.loads)
    for outputs in texts:
        assert {len(output.tokens) for output in outputs} <= {8 + 4 * i for i in range(1, 9)}
        assert {output.workload for output in outputs} == {"chat", "code"}
    for before, after in zip(drawn, found, strict=True):
        tpot, slower = before.metrics[2], after.metrics[2]
        assert (slower.metric, slower.live) == ("TPOT mean, s", tpot.live)
        assert slower.simulated > 1.2 * tpot.simulated
    assert STARTS == [CONFIG]


def test_drafts_are_drawn_where_no_live_run_served_every_request(given: Validation) -> None:
    run(given)
    for path in (given.out / "live" / "runs").glob("*.json"):
        known = json.loads(path.read_bytes())
        path.write_text(json.dumps(known | {"outputs": [[], *known["outputs"][1:]]}))
    lines: list[str] = []
    validate.run(replace(given, drafts=REPLAYED), CONFIG, CALIBRATION, lines.append)
    assert lines[1:] == ["simulated poisson 0.3, drafts drawn", "simulated poisson 0.8, drafts drawn"]


def test_distributions_are_of_what_was_served(given: Validation, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def plot(path: Path, title: str, axes: Any, series: Any) -> bool:
        drawn.update(series)
        return True

    monkeypatch.setattr("streamserve.bench.report.plot", plot)
    key = ("poisson", 0.3, "flowguard")
    live = outcome(1.0, 2.0, 4.0)
    refused = replace(live.requests[0], e2e_s=0.0, finish="error")
    live = replace(live, requests=(*live.requests, refused))
    validate.plots({key: [live]}, {key: [outcome(1.0, 3.0)]}, given.out)
    assert drawn == {"live": ([2.0, 4.0], [0.5, 1.0]), "simulated": ([3.0], [1.0])}


def test_what_cannot_be_compared_is_refused_before_lanes_start(given: Validation) -> None:
    other = msgspec.structs.replace(CALIBRATION.origin, model="other")
    with pytest.raises(ConfigError, match="measured with model 'other'"):
        run(given, msgspec.structs.replace(CALIBRATION, origin=other))
    with pytest.raises(ConfigError, match="--loads"):
        run(replace(given, loads=(0.0,)))
    with pytest.raises(ConfigError, match="--drafts"):
        run(replace(given, drafts="guessed"))
    with pytest.raises(ConfigError, match=r"no \.jsonl file"):
        run(replace(given, prompts=given.prompts / "absent"))
    run(given)
    with pytest.raises(ConfigError, match="other settings"):
        run(replace(given, seed=1))
    assert len(STARTS) == 1
