"""The speculation benchmark over a fake lane: rules, orders, what is measured, what is stored."""

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from streamserve import virtual
from streamserve.bench import speculation
from streamserve.bench.batch import Job
from streamserve.bench.speculation import Bench, Measured, Phase
from streamserve.signals import DepthControl, DepthMode
from streamserve.types import Request
from tests.bench.slow import SlowLane
from tests.fakes import expected_tokens, make_request

ENCODED: Mapping[str, Sequence[tuple[int, ...]]] = {"sum": [(1, 2), (3, 4), (5, 6)], "alpaca": [(7,), (8,)]}


def make(name: str, job: Job) -> Request:
    return make_request(name, job.prompt_token_ids, job.max_tokens)


def options(tmp_path: Path, *more: str) -> Namespace:
    return speculation.arguments().parse_args(["--prompts", "p", "--out", str(tmp_path), *more])


async def ready_bench() -> tuple[Bench, SlowLane]:
    lane = SlowLane(turn_s=0.001)
    await lane.start(lambda lane, stage: None)
    return Bench(lane, make, lambda text: None), lane


@pytest.mark.parametrize(
    ("rule", "control"),
    [
        ("off", DepthControl(DepthMode.OFF)),
        ("fixed:3", DepthControl(DepthMode.FIXED, depth=3)),
        ("ngram:5", DepthControl(DepthMode.FIXED, depth=5)),
        ("specustream", DepthControl()),
        ("specustream:1.5", DepthControl(price=1.5)),
        ("target_acceptance:0.7", DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.7)),
    ],
)
def test_a_rule_is_a_depth_control(rule: str, control: DepthControl) -> None:
    assert speculation.control(rule) == control


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="fastest"):
        speculation.control("fastest:3")


def test_statics_are_left_out_of_later_repeats_and_the_order_changes() -> None:
    rules = speculation.RULES
    orders = [speculation.rules_of_repeat(rules, repeat, 3, seed=0) for repeat in range(5)]
    assert [sorted(order) for order in orders[:3]] == [sorted(rules)] * 3
    assert [sorted(order) for order in orders[3:]] == [["off", "specustream"]] * 2
    assert len({tuple(order) for order in orders}) == 5
    assert orders[0] == speculation.rules_of_repeat(rules, 0, 3, seed=0)


def test_repeats_take_the_next_prompts() -> None:
    first, second = (speculation.jobs_of_repeat(ENCODED, 2, repeat) for repeat in range(2))
    assert [job.prompt_token_ids for job in first["sum"]] == [(1, 2), (3, 4)]
    assert [job.prompt_token_ids for job in second["sum"]] == [(5, 6), (1, 2)]


def test_cells_are_every_workload_at_every_batch() -> None:
    made = speculation.cells(["sum", "alpaca"], [1, 16], None)
    assert [str(each) for each in made] == ["sum x 1", "sum x 16", "alpaca x 1", "alpaca x 16"]
    assert made[0].tokens > made[1].tokens
    assert {each.tokens for each in speculation.cells(["sum"], [1, 16], 7)} == {7}


def test_everything_is_measured_under_every_rule_and_kept(tmp_path: Path) -> None:
    some = ["--rules", "off", "fixed:2", "specustream", "--workloads", "sum", "--batches", "1", "2"]
    more = ["--cell-tokens", "6", "--through", "sum:1:6", "alpaca:2:6", "--repeats", "2", "--static-repeats", "1"]

    async def scenario() -> list[Measured]:
        bench, lane = await ready_bench()
        measured = await speculation.measure(bench, ENCODED, options(tmp_path, *some, *more))
        assert lane.idle
        return measured

    measured = virtual.run(scenario())
    assert Counter((each.kind, each.rule) for each in measured) == {
        ("cell", "off"): 4,
        ("cell", "specustream"): 4,
        ("cell", "fixed:2"): 2,
        **{("phase", rule): 4 for rule in ("off", "fixed:2", "specustream")},
    }
    assert {each.rate.tokens for each in measured if each.phase == Phase("sum", 2, 6)} == {12}
    assert len(json.loads((tmp_path / "measured.json").read_text())) == len(measured)


async def test_the_rule_is_set_before_its_batch() -> None:
    bench, lane = await ready_bench()
    await bench.outputs([Job((1,), 2)], "fixed:2")
    assert [kind for kind, _ in lane.calls[-2:]] == ["control", "decode"]
    assert lane.signals().depth == DepthControl(DepthMode.FIXED, depth=2)


async def test_vllm_s_own_drafts_are_measured_on_a_lane_of_their_own() -> None:
    lane, other = SlowLane(), SlowLane()
    for each in (lane, other):
        await each.start(lambda lane, stage: None)
    bench = Bench(lane, make, lambda text: None, other)
    await bench.outputs([Job((1,), 2)], "ngram:2")
    assert "decode" not in [kind for kind, _ in lane.calls]
    assert [kind for kind, _ in other.calls[-2:]] == ["control", "decode"]


def test_no_prompt_comes_twice_in_a_run_through_the_phases(tmp_path: Path) -> None:
    """Else its second output would be drafted from the first."""
    asked: list[tuple[int, ...]] = []

    def noted(name: str, job: Job) -> Request:
        asked.append(job.prompt_token_ids)
        return make(name, job)

    async def scenario() -> None:
        lane = SlowLane(turn_s=0.001)
        await lane.start(lambda lane, stage: None)
        bench = Bench(lane, noted, lambda text: None)
        through = ["--no-cells", "--rules", "off", "--through", "sum:1:6", "alpaca:2:6", "sum:2:6", "--repeats", "1"]
        await speculation.measure(bench, ENCODED, options(tmp_path, *through))
        assert ("call", "streamserve_forget_history") in lane.calls

    virtual.run(scenario())
    prefilled = len({*ENCODED["sum"], *ENCODED["alpaca"]}) + 1  # alpaca's two prompts fill three places
    assert sorted(asked[prefilled:]) == sorted([*ENCODED["sum"], *ENCODED["alpaca"]])


async def test_stored_outputs_are_the_lane_s_own(tmp_path: Path) -> None:
    bench, _ = await ready_bench()
    path = tmp_path / "outputs.jsonl"
    wanted = ["--store", str(path), "--store-tokens", "5", "--store-prompts", "2", "--store-batch", "2"]
    await speculation.store(bench, ENCODED, options(tmp_path, *wanted))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["workload"], tuple(row["prompt_token_ids"])) for row in rows] == [
        *(("sum", (1, 2)), ("sum", (3, 4)), ("alpaca", (7,)), ("alpaca", (8,)))
    ]
    for row in rows:
        assert row["output_token_ids"] == expected_tokens(make_request("r", row["prompt_token_ids"], 5))
