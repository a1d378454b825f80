"""Step cost: converges under noise, always rises, ignores pauses, and does not keep a depth from being tried."""

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamserve.signals import LEAST_CHUNK_TOKENS, StepCost
from streamserve.specustream.cost import StepCostModel

TRUE = StepCost(((1, 0.033), (8, 0.050), (64, 0.230)), 0.0015)


def taught(
    steps: int, decode_tokens: list[int], cost: StepCost = TRUE, noise: float = 0.0, model: StepCostModel | None = None
) -> StepCostModel:
    random = Random(0)
    model = model or StepCostModel()
    for step in range(steps):
        tokens = decode_tokens[step % len(decode_tokens)]
        model.observe(cost.decode_step_s(tokens) * random.lognormvariate(-noise * noise / 2, noise), 0, tokens)
    return model


def test_before_any_step_it_guesses() -> None:
    model = StepCostModel()
    assert model.cost == StepCost()
    assert model.known_buckets == 0


def test_one_step_sets_the_level_and_the_guess_the_slope() -> None:
    cost = taught(1, [16]).cost
    assert cost.steps == 1
    assert cost.decode_step_s(16) == pytest.approx(TRUE.decode_step_s(16))
    assert cost.decode_step_s(8) < cost.decode_step_s(16) < cost.decode_step_s(32) < cost.decode_step_s(500)


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_converges_on_what_it_visits(noise: float) -> None:
    model = taught(3000, [1, 2, 4, 7, 8, 13, 16, 25, 32, 64], noise=noise)
    assert model.known_buckets == 7
    for tokens in (1, 2, 4, 6, 8, 16, 24, 32, 48, 64):
        assert model.cost.decode_step_s(tokens) == pytest.approx(TRUE.decode_step_s(tokens), rel=0.03 + 0.4 * noise)


def test_beyond_what_it_visited_it_goes_straight_on() -> None:
    model = taught(500, [8, 16, 32])
    assert model.cost.decode_step_s(64) == pytest.approx(TRUE.decode_step_s(64), rel=0.1)
    assert model.cost.decode_step_s(1) == pytest.approx(TRUE.decode_step_s(1), rel=0.25)


@given(
    st.lists(
        st.tuples(st.floats(1e-5, 10), st.sampled_from([0, 0, 0, 5, 100]), st.integers(0, 700)), min_size=1, max_size=60
    )
)
@example([(1.0, 0, 193), (1e-05, 0, 2), (1e-05, 0, 3)])
def test_whatever_it_saw_its_table_rises_and_is_positive(steps: list[tuple[float, int, int]]) -> None:
    model = StepCostModel()
    for step in steps:
        model.observe(*step)
    knots = model.cost.decode_s
    assert knots[0][0] == 1
    assert knots[0][1] > 0
    assert all(low < high and low_s < high_s for (low, low_s), (high, high_s) in zip(knots, knots[1:], strict=False))
    assert model.cost.prefill_token_s >= 0


def test_a_pause_of_the_machine_is_no_cost() -> None:
    model = taught(100, [1, 4])
    before = model.cost
    model.observe(2.0, 0, 4)
    assert model.cost == before


def test_a_machine_that_stays_slower_is_believed_at_once() -> None:
    model = taught(100, [1, 4, 16])
    for _ in range(3):
        model.observe(10 * TRUE.decode_step_s(4), 0, 4)
    assert model.cost.decode_step_s(4) == pytest.approx(10 * TRUE.decode_step_s(4), rel=0.05)
    assert model.cost.decode_step_s(16) == pytest.approx(10 * TRUE.decode_step_s(16), rel=0.05)


def test_a_first_step_that_was_paused_does_not_stay() -> None:
    model = StepCostModel()
    model.observe(5.0, 0, 1)
    taught(50, [1], model=model)
    assert model.cost.decode_step_s(1) == pytest.approx(TRUE.decode_step_s(1), rel=0.05)


def test_depths_that_are_not_visited_follow_the_machine() -> None:
    model = taught(300, [4, 64])
    half = StepCost(tuple((tokens, seconds / 2) for tokens, seconds in TRUE.decode_s))
    taught(400, [4], half, model=model)
    assert model.cost.decode_step_s(64) == pytest.approx(half.decode_step_s(64), rel=0.3)


def test_a_bad_look_at_a_depth_fades() -> None:
    model = taught(200, [4, 8])
    for _ in range(4):
        model.observe(4 * TRUE.decode_step_s(16), 0, 16)
    bad = model.cost.decode_step_s(16)
    taught(8000, [4, 8], model=model)
    assert model.cost.decode_step_s(16) < 0.5 * bad


def test_learns_the_price_of_a_prompt_token_beside_decodes() -> None:
    model = taught(100, [4])
    for prompt in (20, 500, 64) * 30:
        model.observe(TRUE.step_s(prompt, 4), prompt, 4)
    assert model.cost.prefill_token_s == pytest.approx(0.0015, rel=0.05)
    assert model.cost.decode_step_s(4) == pytest.approx(TRUE.decode_step_s(4), rel=0.02)


def test_a_lane_that_hardly_ever_decodes_keeps_its_table() -> None:
    model = taught(1, [4])
    model._steps += 10**8  # as so many prefills would have done
    model.observe(0.5, 100, 0)
    assert model.cost.decode_step_s(4) == pytest.approx(TRUE.decode_step_s(4), rel=0.05)


@pytest.mark.parametrize("step", [(0.0, 0, 1), (-1.0, 0, 1), (float("nan"), 0, 1), (0.03, 0, 0), (0.03, 5, 1)])
def test_steps_that_say_nothing_teach_nothing(step: tuple[float, int, int]) -> None:
    model = StepCostModel()
    model.observe(*step)
    assert model.cost == StepCost()


@given(decode_tokens=st.integers(1, 300), stall_s=st.floats(0.01, 2.0))
def test_a_chunk_stalls_no_longer_than_asked_or_is_the_least(decode_tokens: int, stall_s: float) -> None:
    cost = StepCost(((1, 0.02), (200, 0.3)), prefill_token_s=0.001, steps=1)
    chunk = cost.chunk_tokens(decode_tokens, stall_s, 10**6)
    assert chunk == LEAST_CHUNK_TOKENS or cost.step_s(chunk, decode_tokens) <= stall_s + 1e-9
    assert chunk == LEAST_CHUNK_TOKENS or cost.step_s(chunk + 1, decode_tokens) > stall_s - 1e-9


@pytest.mark.parametrize(
    ("cost", "decode_tokens", "stall_s"),
    [
        (StepCost(steps=1), 4, None),
        (StepCost(steps=1), 0, 0.1),
        (StepCost(), 4, 0.1),
        (StepCost(prefill_token_s=0.0, steps=1), 4, 0.1),
    ],
    ids=["none asked", "nobody decodes", "nothing learned", "prompts cost nothing"],
)
def test_prompts_are_not_cut(cost: StepCost, decode_tokens: int, stall_s: float | None) -> None:
    assert cost.chunk_tokens(decode_tokens, stall_s, 2048) == 2048
