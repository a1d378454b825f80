"""Kernels: compiled loops say of every pair what the README's formulas say, written down here with numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.flowguard import kernels
from streamserve.flowguard.kernels import SLO_SHAPE, TINY, Situation
from streamserve.flowguard.pairs import Block, Floats, Mask
from streamserve.flowguard.scorers import SCORERS
from streamserve.flowguard.table import LANE, NUMBERS

SHARES = ("kv_free", "kv_per_token", "spare")
COUNTS = ("prefill_tokens", "batch", "half_batch", "waiting")
WEIGHTS = np.array(list(SCORERS.values()))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    kernels.prepare()


def lanes(draw: np.random.Generator, count: int) -> Any:
    numbers = np.zeros(count, LANE)
    for name in NUMBERS:
        scale = 1e-4 if name in ("kv_per_token", "step_share", "prefill_token_s") else 0.1
        numbers[name] = draw.random(count) * (1.0 if name in SHARES else scale)
    for name in COUNTS:
        numbers[name] = draw.integers(0, 500, count)
    numbers["kv_per_token"] *= 1e-3
    numbers["step_output"] = 1.0 + draw.random(count)
    return numbers


def situation(draw: np.random.Generator, count: int, block: Block, ttft_s: float, tpot_s: float) -> Situation:
    learned = np.stack([0.5 + draw.random(count), 0.5 + draw.random(count), 1.2 * draw.random(count)])
    prompt, expected, beside = float(draw.integers(1, 4000)), 1.0 + 300 * draw.random(), 100 * draw.random()
    cached_tokens = np.floor(draw.random(count) * prompt)
    asked = (prompt, expected, min(expected, beside), float(draw.integers(0, 2)), draw.random(), ttft_s, tpot_s)
    return lanes(draw, count), learned, cached_tokens, block.prefill, block.decode, asked


def judged(met: Situation, mask: Mask, weights: Floats = WEIGHTS) -> tuple[kernels.Numbers, Floats, Floats]:
    said, scores, total = kernels.blank(mask.shape), np.empty((*mask.shape, len(weights))), np.empty(mask.shape)
    kernels.judge(met, mask, weights, said, scores, total)
    return said, scores, total


def by_formula(met: Situation, mask: Mask) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """What is predicted, and the scores."""
    numbers, (prefill_factor, tpot_factor, prefilling), cached, prefills, decodes, asked = met
    prompt, expected, together, late, waited_s, ttft_wish_s, tpot_wish_s = asked
    one: Callable[[str], Floats] = lambda name: numbers[name][prefills][:, None]  # noqa: E731
    other: Callable[[str], Floats] = lambda name: numbers[name][decodes][None, :]  # noqa: E731
    uncached = np.maximum(1.0, prompt - cached)[prefills][:, None]
    price_s = one("prefill_token_s") * prefill_factor[prefills][:, None]
    tokens = one("prefill_tokens") + uncached
    steps = np.ceil(tokens * one("step_share")) + one("step_wait")
    prefill_s = tokens * price_s + steps * one("step_s") * prefill_factor[prefills][:, None]
    stretch = (tpot_factor / (1.0 - np.minimum(0.8, prefilling)))[decodes]
    tpot_s = other("tpot_one_more_s") * stretch
    queued_s = other("prefill_tokens") * other("prefill_token_s") * prefill_factor[decodes]
    join_s = other("transfer_s") + 0.5 * other("step_s")
    split = prefills[:, None] != decodes[None, :]
    gap_s = np.where(split, np.maximum(join_s, join_s + queued_s - prefill_s), 0.0)
    e2e_s = prefill_s + gap_s + (expected - 1.0) * tpot_s
    others_s = one("batch") * uncached * price_s + other("slower_s") * stretch * together
    ttft_s, cost_s = prefill_s + late * gap_s, e2e_s + others_s
    product = tokens * (1.0 + one("half_batch") + other("half_batch"))
    left = one("kv_free") - prompt * one("kv_per_token")
    left_there = other("kv_free") - (prompt + expected) * other("kv_per_token")
    scores = {
        "latency": (cost_s[mask].min() + TINY) / (cost_s + TINY),
        "slo": 1.0
        / (1.0 + ((waited_s + ttft_s) / ttft_wish_s) ** SLO_SHAPE)
        / (1.0 + (tpot_s / tpot_wish_s) ** SLO_SHAPE),
        "prefix": 1.0 - uncached / prompt,
        "prefill_batch": (product[mask].min() + TINY) / (product + TINY),
        "kv_headroom": np.maximum(0.0, np.minimum(left, left_there)),
        "queue": 1.0 / (1.0 + one("waiting") + np.where(split, other("waiting"), 0.0)),
        "speculation": other("step_output") / other("step_output").max(),
        "device": np.minimum(one("spare"), other("spare")),
    }
    return {"ttft_s": ttft_s, "gap_s": gap_s, "e2e_s": e2e_s, "cost_s": cost_s, "tpot_s": tpot_s}, scores


wishes = st.sampled_from((0.01, 0.5, float("inf")))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), some=st.booleans(), ttft_s=wishes, tpot_s=wishes)
def test_every_pair_gets_what_the_formulas_say(seed: int, count: int, some: bool, ttft_s: float, tpot_s: float) -> None:
    draw = np.random.default_rng(seed)
    block = Block.all(count)
    if some:
        chosen = [np.sort(draw.permutation(count)[: draw.integers(1, count + 1)]) for _ in range(2)]
        block = Block.of(*chosen)
    mask = draw.random(block.split.shape) < 0.6
    mask[draw.integers(len(block.prefill)), draw.integers(len(block.decode))] = True
    met = situation(draw, count, block, ttft_s, tpot_s)
    said, scores, total = judged(met, mask)
    alone = kernels.blank(mask.shape)
    kernels.forecast(met, alone)
    for one, same in zip(said, alone, strict=True):
        assert np.array_equal(one, same)
    predicted, expected = by_formula(met, mask)
    for name, matrix in zip(("ttft_s", "gap_s", "e2e_s", "cost_s"), said[2], strict=True):
        np.testing.assert_allclose(matrix, predicted[name], rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(said[1], predicted["tpot_s"][0], rtol=1e-9)
    for place, name in enumerate(SCORERS):
        each = np.broadcast_to(expected[name], mask.shape)
        np.testing.assert_allclose(scores[..., place], each, rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(total[mask], (scores @ WEIGHTS)[mask], rtol=1e-9)
    assert np.all(total[~mask] == -np.inf)


def test_another_type_is_an_error_and_not_compiled_for() -> None:
    draw = np.random.default_rng(0)
    met = situation(draw, 2, Block.all(2), 1.0, 1.0)
    with pytest.raises(TypeError, match="No matching definition"):
        judged(met, np.ones((2, 2), bool), WEIGHTS.astype(np.float32))
