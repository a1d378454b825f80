"""Prompt sets: reading, mixing, making up, and conversations that repeat their history."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from streamserve.errors import ConfigError
from streamserve.workload import prompts
from streamserve.workload.prompts import Prompt


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def some(workload: str, n: int) -> list[Prompt]:
    return [Prompt(f"{workload}-{i}", workload, (("user", f"ask {i}"),), 8, reference=f"say {i}") for i in range(n)]


def test_a_folder_is_read_by_workload(tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_text('{"id": "a", "prompt": "Hi", "max_tokens": 4, "more": 1}\n\n')
    (tmp_path / "long.jsonl").write_text('{"id": "b", "prompt": "Ho", "max_tokens": 9, "reference": "so"}\n')
    assert prompts.load_folder(tmp_path) == {
        "long": [Prompt("b", "long", (("user", "Ho"),), 9, reference="so")],
        "short": [Prompt("a", "short", (("user", "Hi"),), 4)],
    }
    assert list(prompts.load_folder(tmp_path, ["short"])) == ["short"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1"),
        ('{"id": "a", "prompt": "x", "max_tokens": 1}\n{"id": "a", "prompt": "Hi"}', "line 2.*max_tokens"),
        ('{"id": "a", "prompt": "", "max_tokens": 1}', "must not be empty"),
        ('{"id": "a", "prompt": "x", "max_tokens": 0}', "at least 1"),
        ('{"id": "a", "prompt": 3, "max_tokens": 1}', "line 1"),
        ("", "no prompt"),
    ],
)
def test_a_broken_set_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "set.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=message):
        prompts.load_folder(tmp_path)


def test_a_folder_without_what_is_wanted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \.jsonl"):
        prompts.load_folder(tmp_path)
    (tmp_path / "set.jsonl").write_text('{"id": "a", "prompt": "Hi", "max_tokens": 4}')
    with pytest.raises(ConfigError, match="no other in .*; it has set"):
        prompts.load_folder(tmp_path, ["other"])
    with pytest.raises(ConfigError, match="cannot be read"):
        prompts.load(tmp_path / "none.jsonl")


def test_a_mix_has_equal_shares_and_repeats_nothing_needlessly() -> None:
    mixed = prompts.mix({"a": some("a", 3), "b": some("b", 10)}, rng(), 13)
    assert Counter(each.workload for each in mixed) == {"a": 7, "b": 6}
    assert sorted(Counter(each.id for each in mixed if each.workload == "a").values()) == [2, 2, 3]
    assert len({each.id for each in mixed if each.workload == "b"}) == 6


def test_a_mix_is_its_seed_s() -> None:
    sets = {"a": some("a", 9), "b": some("b", 9)}
    assert prompts.mix(sets, rng(1), 12) == prompts.mix(sets, rng(1), 12)
    assert prompts.mix(sets, rng(1), 12) != prompts.mix(sets, rng(2), 12)


def test_synthetic_prompts_are_its_seed_s_and_of_many_lengths() -> None:
    made = prompts.synthetic(30, rng())
    assert made == prompts.synthetic(30, rng())
    lengths = [len(each.messages[0][1]) for each in made]
    assert max(lengths) > 4 * min(lengths)
    assert all(each.reference in each.messages[0][1] and 16 <= each.max_tokens <= 64 for each in made)


def test_each_turn_of_a_conversation_repeats_all_before_it() -> None:
    made = prompts.conversations(some("open", 4), some("on", 6), turns=3, n=2, rng=rng())
    assert [len(turns) for turns in made] == [3, 3]
    assert len({turn.id for turns in made for turn in turns}) == 6
    for turns in made:
        assert [turn.workload for turn in turns] == ["open", "on", "on"]
        for before, after in zip(turns, turns[1:], strict=False):
            assert after.messages[:-1] == (*before.messages, ("assistant", before.reference))
            assert after.messages[-1][0] == "user"


def test_a_conversation_needs_references() -> None:
    mute = [Prompt("mute", "mute", (("user", "x"),), 4)]
    with pytest.raises(ConfigError, match="mute has no reference"):
        prompts.conversations(mute, some("on", 2), turns=2, n=1, rng=rng())
