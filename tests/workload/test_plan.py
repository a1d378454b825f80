"""Plans: prompts at their arrivals, and conversations whose turns come in order."""

import numpy as np
import pytest

from streamserve.errors import ConfigError
from streamserve.types import Slo
from streamserve.workload import plan, prompts
from streamserve.workload.prompts import Prompt


def encode(prompt: Prompt) -> list[int]:
    return [ord(letter) for _, text in prompt.messages for letter in text]


def test_a_plan_has_one_prompt_at_each_arrival() -> None:
    asked = prompts.synthetic(3, np.random.default_rng(0))
    made = plan.plan([0.5, 1.0, 4.0], asked, encode, Slo(ttft_s=1.0))
    assert [each.arrival_s for each in made] == [0.5, 1.0, 4.0]
    assert [each.prompt_token_ids for each in made] == [tuple(encode(each)) for each in asked]
    assert [each.max_tokens for each in made] == [each.max_tokens for each in asked]
    assert {each.slo for each in made} == {Slo(ttft_s=1.0)}


def test_arrivals_and_prompts_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        plan.plan([0.5], prompts.synthetic(2, np.random.default_rng(0)), encode)


def test_too_short_a_trace_is_refused() -> None:
    assert plan.take(iter([1.0, 2.0, 3.0]), 2) == [1.0, 2.0]
    with pytest.raises(ConfigError, match="ends after 2"):
        plan.take([1.0, 2.0], 3)


def test_turns_interleave_in_order_and_share_their_prefix() -> None:
    rng = np.random.default_rng(0)
    asked = prompts.synthetic(8, rng)
    talks = prompts.conversations(asked, asked, turns=3, n=4, rng=rng)
    made = plan.turns([0.0, 1.0, 2.0, 3.0], talks, pause_s=2.0, rng=rng, encode=encode)
    assert len(made) == 12
    assert [each.arrival_s for each in made] == sorted(each.arrival_s for each in made)
    for talk in talks:
        times = [next(p.arrival_s for p in made if p.prompt_token_ids == tuple(encode(turn))) for turn in talk]
        assert all(1.0 <= after - before <= 3.0 for before, after in zip(times, times[1:], strict=False))
        tokens = [encode(turn) for turn in talk]
        assert all(after[: len(before)] == before for before, after in zip(tokens, tokens[1:], strict=False))
