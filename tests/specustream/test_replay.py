"""The replay: exact tokens, whatever the depths, and figures that a reader can check."""

import json
from pathlib import Path

import pytest

from streamserve.signals import DepthControl, DepthMode, StepCost
from streamserve.specustream.replay import compared, loaded, main, overall, parsed_rule, replay
from streamserve.specustream.specustream import SpecuStream
from tests.specustream.outputs import lines

RULES = ["off", "fixed:2", "fixed:8", "target_acceptance:0.4", "specustream"]
PHASES = [("new", 8), ("copy", 1), ("copy", 8)]
COST = StepCost(((1, 0.033), (8, 0.050), (64, 0.230)))


def test_every_rule_makes_the_same_tokens() -> None:
    outputs = loaded(lines(), (2, 5), 8)
    tallies = compared(outputs, PHASES, RULES, COST)
    for phase in PHASES:
        assert {tally[phase].tokens for tally in tallies.values()} == {12 * 59}
    assert tallies["off"]["copy", 1].steps == 12 * 59
    assert tallies["off"]["copy", 1].seconds == pytest.approx(12 * 59 * 0.033)
    assert tallies["off"]["copy", 1].draft_tokens == 0


def test_specustream_beats_every_static_depth_over_a_shifting_mix() -> None:
    outputs = loaded(lines(24), (2, 5), 8)
    static = ["off", *(f"fixed:{depth}" for depth in range(1, 9))]
    tallies = compared(outputs, PHASES * 2, [*static, "specustream"], COST, noise=0.1)
    best = max(overall(tallies[rule]) for rule in static)
    assert overall(tallies["specustream"]) > best
    for phase in PHASES:
        assert tallies["specustream"][phase].tokens_per_s > 0.98 * tallies["off"][phase].tokens_per_s


def test_one_output_by_hand() -> None:
    record = {"workload": "w", "prompt_token_ids": [1, 2, 3, 4, 5, 6], "output_token_ids": [1, 2, 3, 4, 9]}
    (output,) = loaded([json.dumps(record)], (2, 5), 3)
    assert output.drafts == [(), [], [3, 4, 5], [4, 5, 6], [5, 6, 1], []]
    specustream = SpecuStream(DepthControl(DepthMode.FIXED, depth=8), 3, lambda: 0.0)
    tally = replay([output], 1, specustream, lambda tokens: 0.01 * tokens)
    # [2] without a draft; 3 4 9 with the 2 draft tokens that can still count, both right.
    assert (tally.tokens, tally.steps, tally.draft_tokens) == (4, 2, 2)
    assert tally.seconds == pytest.approx(0.04)
    assert specustream.accepted_tokens_total == 2


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


def test_the_command_prints_a_row_per_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = tmp_path / "outputs.jsonl"
    stored.write_text("\n".join(lines(2)))
    cost = tmp_path / "cost.yaml"
    cost.write_text("{1: 0.01, 8: 0.02}")
    main([str(stored), "--batch", "1", "2", "--rules", "off", "fixed:2", "specustream", "--cost", str(cost)])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + 4 + 1
    assert printed[1].split()[:3] == ["new", "1", "100.0"]
