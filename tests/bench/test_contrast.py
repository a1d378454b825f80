"""Policies against the heuristic on live lanes: blocks in turn, paired, resumable; over fake lanes in virtual time."""

import json
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamserve import config as configuration
from streamserve import virtual
from streamserve.bench import contrast, rig, routing
from streamserve.bench.contrast import Block, Contrast
from streamserve.errors import ConfigError, PolicyError
from streamserve.policy import store
from streamserve.policy.card import Kind
from streamserve.policy.controls import CONTROLS
from streamserve.signals import DepthControl
from tests.bench.test_commands import fake_greedy, fake_live
from tests.policy.policies import make_card, make_weights
from tests.policy.test_spec import always


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contrast:
    monkeypatch.setattr(rig, "live", fake_live)
    monkeypatch.setattr(rig, "greedy", fake_greedy)
    (tmp_path / "texts").mkdir()
    entries = [{"id": str(n), "prompt": f"what is {n}", "max_tokens": 5 + n} for n in range(8)]
    (tmp_path / "texts" / "sums.jsonl").write_text("\n".join(map(json.dumps, entries)))
    keep(tmp_path / "mine")
    return Contrast(
        tmp_path / "texts",
        tmp_path / "out",
        {"mine": str(tmp_path / "mine")},
        configuration.load("cpu-pair", ["policy.budget_us=null"]),
        scenes=("steady", "bursts"),
        repeats=2,
        requests=6,
        capacity=2.0,
    )


def keep(folder: Path, kind: Kind = "route", **weights: Any) -> None:
    store.save(folder, make_card(kind, name=folder.name), make_weights(kind, **weights))


def measured(given: Contrast, told: list[str] | None = None) -> list[Block]:
    lines = [] if told is None else told
    return virtual.run(contrast.measure(given, lambda _done, _runs, line: lines.append(line)))


def test_every_block_is_one_plan_under_every_system_and_every_other_one_in_reverse(given: Contrast) -> None:
    told: list[str] = []
    blocks = measured(given, told)
    assert [(block.scenario, block.number) for block in blocks] == [
        ("steady, 0.8", 0), ("bursts, 0.8", 0), ("steady, 0.8", 1), ("bursts, 0.8", 1)
    ]  # fmt: skip
    plans = [
        {tuple((each.arrival_s, each.prompt_tokens, each.output_tokens) for each in run.requests)
         for run in block.runs.values()}
        for block in blocks
    ]  # fmt: skip
    assert all(len(each) == 1 for each in plans) and len(set.union(*plans)) == 4
    assert [line.split(": ")[0].rpartition(" ")[2] for line in told[1:]] == (
        ["flowguard", "mine"] * 2 + ["mine", "flowguard"] * 2
    )


def test_an_untrained_policy_is_asked_and_agrees(given: Contrast) -> None:
    for block in measured(given):
        assert block.steady and block.runs["flowguard"].policy is None
        told = block.runs["mine"].policy
        assert told is not None
        assert (told["decisions"], told["agreement"], told["fallbacks"], told["refused"]) == (6, 1.0, {}, None)


def test_it_goes_on_where_it_stopped_and_takes_more_blocks(given: Contrast, monkeypatch: pytest.MonkeyPatch) -> None:
    before = measured(given)
    monkeypatch.setattr(rig, "live", None)
    assert measured(given) == before
    monkeypatch.setattr(rig, "live", fake_live)
    told: list[str] = []
    more = measured(replace(given, repeats=3), told)
    assert more[:4] == before and len(more) == 6 and len(told) == 1 + 4


def test_a_policy_that_was_trained_anew_is_not_mixed_with_the_old_one(given: Contrast) -> None:
    measured(given)
    keep(given.out.parent / "mine", seed=1)
    with pytest.raises(ConfigError, match="other settings"):
        measured(given)


def test_a_slow_lane_slows_the_arrivals(given: Contrast, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[Any] = []

    @asynccontextmanager
    async def disturbed(_lanes: Any, disturbances: Any) -> AsyncIterator[None]:
        happened.extend(disturbances)
        yield

    monkeypatch.setattr(routing, "disturbed", disturbed)
    even, slow = (measured(replace(given, scenes=(name,), out=given.out / name)) for name in ("steady", "slow lane"))
    assert [(each.kind, each.lane) for each in happened] == [("slow", 1)] * 4
    ends_s = [block.runs["mine"].requests[-1].arrival_s for block in (even[0], slow[0])]
    assert ends_s[1] == pytest.approx(ends_s[0] / 0.75)


def test_a_policy_for_depth_sets_the_lanes_and_leaves_nothing_behind(
    given: Contrast, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = always(3)
    store.save(given.out.parent / "depth", policy.card, policy.weights)
    during: list[DepthControl | None] = []

    @asynccontextmanager
    async def live(configs: Any, progress: Any) -> AsyncIterator[Namespace]:
        async with fake_live(configs, progress) as ready:
            lanes = ready.sets["lanes"].lanes.values()

            async def idle(_lanes: Any) -> None:
                during.extend(lane.signals().depth for lane in lanes)

            monkeypatch.setattr(rig, "idle", idle)
            yield ready
            assert [lane.signals().depth for lane in lanes] == [lane.default_depth for lane in lanes]

    monkeypatch.setattr(rig, "live", live)
    measured(replace(given, policies={"depth": str(given.out.parent / "depth")}, scenes=("steady",)))
    assert CONTROLS[3] in during


def mistakes(given: Contrast) -> Iterator[tuple[Contrast, type[Exception]]]:
    yield replace(given, scenes=("often",)), ConfigError
    yield replace(given, loads=(0.0,)), ConfigError
    yield replace(given, loads=()), ConfigError
    yield replace(given, repeats=1), ConfigError
    yield replace(given, baselines=("nobody",)), ConfigError
    yield replace(given, policies={"gone": "not/there"}), PolicyError
    yield replace(given, prompts=given.out), ConfigError


def test_mistakes_are_found_before_lanes_start(given: Contrast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "live", None)
    for wrong, error in mistakes(given):
        with pytest.raises(error):
            measured(wrong)


def test_a_pause_of_the_machine_is_of_its_block(given: Contrast) -> None:
    block = measured(given)[0]
    runs = {**block.runs, "mine": replace(block.runs["mine"], machine_gap_s=9.0)}
    assert block.steady and not block._replace(runs=runs).steady
