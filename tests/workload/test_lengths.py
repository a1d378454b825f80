"""Lengths: made up, from traces, and from texts without a tokenizer."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.errors import ConfigError
from streamserve.workload import lengths
from streamserve.workload.lengths import Lengths, Row
from streamserve.workload.prompts import Prompt


def prompt(*texts: str) -> Prompt:
    return Prompt("p", "chat", tuple(("user", text) for text in texts), 8)


def test_text_without_a_tokenizer_keeps_its_length_and_its_common_beginning() -> None:
    opening = "Seven x" * 6
    first, second = lengths.pieces(prompt(opening)), lengths.pieces(prompt(opening, "and a question"))
    assert second[: len(first)] == first
    assert len(first) == (len("<user>") + 42) / 4
    assert lengths.pieces(prompt("something else"))[2:] != first[2:]


def test_made_up_lengths_have_the_means_asked_for() -> None:
    made = lengths.plan([0.0] * 20_000, Lengths(100, 40), np.random.default_rng(0))
    assert np.mean([len(each.prompt_token_ids) for each in made]) == pytest.approx(100, rel=0.05)
    assert np.mean([each.max_tokens for each in made]) == pytest.approx(40, rel=0.05)
    assert len({each.prompt_token_ids[:1] for each in made}) > 19_000
    assert made[:5] == lengths.plan([0.0] * 20_000, Lengths(100, 40), np.random.default_rng(0))[:5]


@pytest.mark.parametrize("spec", ["", "128", "128:", "0:5", "5:0", "nan:5", "inf:5", "a:b"])
def test_lengths_that_cannot_be_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="PROMPT_TOKENS:OUTPUT_TOKENS"):
        lengths.parse(spec)


def test_a_trace_gives_arrivals_lengths_and_common_beginnings(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,hash_ids\n1,1000,20,7 8\n2,1500,10,7 8 9\n5,300,4,11\n")
    made = lengths.replayed(lengths.read_rows(path), None, 1.0, seed=0)
    assert [each.arrival_s for each in made] == [0.0, 1.0, 4.0]
    assert [(len(each.prompt_token_ids), each.max_tokens) for each in made] == [(1000, 20), (1500, 10), (300, 4)]
    assert made[0].prompt_token_ids == made[1].prompt_token_ids[:1000]
    assert made[0].prompt_token_ids[0] != made[2].prompt_token_ids[0]


@settings(deadline=None)
@given(
    st.lists(st.builds(Row, st.floats(0, 1e4), st.integers(1, 5000), st.integers(1, 500)), min_size=1, max_size=20),
    st.floats(0.1, 100),
    st.sampled_from([0.125, 0.5, 1.0]),
)
def test_a_replay_scales_time_and_lengths_and_nothing_else(rows: list[Row], rate: float, scale: float) -> None:
    rows.sort(key=lambda row: row.arrival_s)
    made = lengths.replayed(rows, rate, scale, seed=1)
    assert [len(each.prompt_token_ids) for each in made] == [max(1, round(row.prompt_tokens * scale)) for row in rows]
    assert made[0].arrival_s == 0
    if made[-1].arrival_s:
        assert made[-1].arrival_s == pytest.approx(len(rows) / rate)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrival_s,prompt_tokens,output_tokens\n2,1,1\n1,1,1\n", "sort the file"),
        ("arrival_s,prompt_tokens,output_tokens\n-2,1,1\n", "not negative"),
        ("arrival_s,prompt_tokens,output_tokens\n2,0,1\n", "line 2: a request needs at least one token"),
        ("arrival_s,prompt_tokens,output_tokens\n2,x,1\n", "line 2: lengths and hash_ids must be whole numbers"),
        ("arrival_s,prompt_tokens,output_tokens\n2,3\n", "line 2: lengths and hash_ids must be whole numbers"),
        ("arrival_s\n2\n", "no column output_tokens and prompt_tokens"),
    ],
)
def test_a_trace_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        lengths.read_rows(path)
