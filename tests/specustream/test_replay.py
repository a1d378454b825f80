"""The replay: exact tokens, whatever the depths, and figures that a reader can check."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from streamserve.signals import DepthControl, DepthMode, StepCost
from streamserve.specustream.history import HistoryDrafter
from streamserve.specustream.ngram import NgramDrafts
from streamserve.specustream.playback import Drafter, loaded, replay
from streamserve.specustream.replay import ONE_CORE, Setting, compared, main, overall, parsed_rule
from streamserve.specustream.specustream import SpecuStream
from tests.specustream.outputs import lines

RULES = ["off", "fixed:2", "fixed:8", "target_acceptance:0.4", "specustream", "oracle"]
PHASES = [("new", 8), ("copy", 1), ("copy", 8)]
COST = StepCost(((1, 0.033), (8, 0.050), (64, 0.230)))


def ngram() -> Drafter:
    return NgramDrafts(2, 5, 8)


def history() -> Drafter:
    return HistoryDrafter(6, 4096)


drafters = pytest.mark.parametrize("drafter", [ngram, history])


@drafters
def test_every_rule_makes_the_same_tokens_and_none_beats_the_oracle(drafter: Callable[[], Drafter]) -> None:
    outputs = loaded(lines())
    tallies = compared(outputs, PHASES, RULES, Setting(drafter, COST))
    for phase in PHASES:
        assert {tally[phase].tokens for tally in tallies.values()} == {12 * 59}
        assert all(tally[phase].seconds >= tallies["oracle"][phase].seconds for tally in tallies.values())
    assert tallies["off"]["copy", 1].steps == 12 * 59
    assert tallies["off"]["copy", 1].seconds == pytest.approx(12 * 59 * 0.033)
    assert tallies["off"]["copy", 1].draft_tokens == 0
    oracle = tallies["oracle"]["copy", 1]
    assert oracle.tokens == oracle.steps + oracle.draft_tokens


@pytest.mark.parametrize(("drafter", "least"), [(history, 1.1), (ngram, 0.98)])
def test_specustream_holds_against_every_static_depth_over_a_shifting_mix(
    drafter: Callable[[], Drafter], least: float
) -> None:
    """The n-gram's drafts all look alike until they were verified: there it finds the best depth, no better one."""
    outputs = loaded(lines(16))
    static = ["off", "fixed:1", "fixed:2", "fixed:3", "fixed:5", "fixed:8"]
    tallies = compared(outputs, PHASES * 2, [*static, "specustream"], Setting(drafter, COST, noise=0.1))
    best = max(overall(tallies[rule]) for rule in static)
    assert overall(tallies["specustream"]) > least * best
    for phase in PHASES:
        assert tallies["specustream"][phase].tokens_per_s > 0.98 * tallies["off"][phase].tokens_per_s


def test_an_output_is_no_history_of_itself_in_a_later_phase() -> None:
    outputs = [output for output in loaded(lines(3)) if output.workload == "new"]
    alone = compared(outputs, [("new", 1)], ["oracle"], Setting(history, COST))["oracle"]
    phases = [("new", 1), ("new", 3), ("new", 1)]
    after = compared(outputs, phases, ["oracle"], Setting(history, COST))["oracle"]
    assert after["new", 1] == alone["new", 1]


def test_one_output_by_hand() -> None:
    record = {"workload": "w", "prompt_token_ids": [1, 2, 3, 4, 5, 6], "output_token_ids": [1, 2, 3, 4, 9]}
    outputs = loaded([json.dumps(record)])
    specustream = SpecuStream(DepthControl(DepthMode.FIXED, depth=8), 3, lambda: 0.0)
    tally = replay(outputs, 1, specustream, NgramDrafts(2, 5, 3), lambda tokens: 0.01 * tokens, 3)
    # [2] without a draft; 3 4 9 with the 2 draft tokens that can still count, both right.
    assert (tally.tokens, tally.steps, tally.draft_tokens) == (4, 2, 2)
    assert tally.seconds == pytest.approx(0.04)
    assert specustream.accepted_tokens_total == 2
    # The history knows what followed a single token as well: 2 3 4 are drafted at once, then there is nothing to draft.
    tally = replay(outputs, 1, None, HistoryDrafter(5, 0), lambda tokens: 0.01 * tokens, 3)
    assert (tally.tokens, tally.steps, tally.draft_tokens) == (4, 1, 3)


@pytest.mark.parametrize(
    ("text", "control"),
    [
        ("off", DepthControl(DepthMode.OFF)),
        ("fixed:3", DepthControl(DepthMode.FIXED, depth=3)),
        ("target_acceptance:0.3", DepthControl(DepthMode.TARGET_ACCEPTANCE, target=0.3)),
        ("specustream:2", DepthControl(price=2.0)),
    ],
)
def test_rules_are_written_as_words(text: str, control: DepthControl) -> None:
    assert parsed_rule(text) == control


@pytest.mark.parametrize("text", ["fixed", "fixed:x", "best"])
def test_words_that_are_no_rule_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed_rule(text)


@pytest.mark.parametrize("drafter", ["history", "ngram"])
def test_the_command_prints_a_row_per_phase(drafter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = tmp_path / "outputs.jsonl"
    stored.write_text("\n".join(lines(2)))
    cost = tmp_path / "cost.yaml"
    cost.write_text("{1: 0.01, 8: 0.02}")
    main([str(stored), "--batch", "1", "2", "--rules", *RULES, "--drafter", drafter, "--cost", str(cost)])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + 4 + 1
    assert printed[1].split()[:3] == ["new", "1", "100.0"]
    assert printed[0].split() == ["phase", "batch", *RULES]


def test_the_measured_cost_rises() -> None:
    knots = ONE_CORE.decode_s
    assert all(low < high and low_s < high_s for (low, low_s), (high, high_s) in zip(knots, knots[1:], strict=False))
