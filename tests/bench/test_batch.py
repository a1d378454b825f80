"""The decode rate of a batch: which steps it counts, and which not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve import virtual
from streamserve.bench import batch
from streamserve.bench.batch import Job, Pieces, Rate
from streamserve.types import Request
from tests.bench.slow import SlowLane
from tests.fakes import expected_tokens, make_request

EARLY: Pieces = ((1.0, 1), (2.0, 2), (3.0, 3), (4.0, 1))
LATE: Pieces = ((2.0, 1), (3.0, 1), (4.0, 2), (6.0, 2))


def test_the_full_batch_counts_from_the_last_first_token_to_the_first_end() -> None:
    assert batch.full_batch_rate([EARLY, LATE]) == Rate(tokens=3 + 1 + 1 + 2, seconds=2.0)


def test_until_the_last_counts_the_tail_too() -> None:
    assert batch.until_last_rate([EARLY, LATE]) == Rate(tokens=3 + 1 + 1 + 2 + 2, seconds=4.0)


def test_rates_add_up_as_tokens_over_time() -> None:
    assert (Rate(10, 1.0) + Rate(2, 2.0)).per_s == 4.0


def test_a_batch_that_never_decoded_together_is_refused() -> None:
    with pytest.raises(ValueError, match="generate more tokens"):
        batch.full_batch_rate([((1.0, 1), (2.0, 1)), ((3.0, 1), (4.0, 1))])


@given(st.integers(1, 5), st.integers(2, 30), st.integers(1, 4), st.floats(0.01, 1))
def test_even_steps_give_batch_times_depth_over_the_step_time(size: int, steps: int, gain: int, step_s: float) -> None:
    pieces: Pieces = tuple((step_s * i, gain) for i in range(1, steps + 1))
    for rate in (batch.full_batch_rate, batch.until_last_rate):
        assert rate([pieces] * size).per_s == pytest.approx(size * gain / step_s)


def test_a_batch_runs_on_a_lane_to_its_end() -> None:
    requests: list[Request] = []

    def make(name: str, job: Job) -> Request:
        requests.append(make_request(name, job.prompt_token_ids, job.max_tokens))
        return requests[-1]

    async def scenario() -> None:
        lane = SlowLane("a", turn_s=0.1)
        await lane.start(lambda lane, stage: None)
        outputs = await batch.run(lane, [Job((1, 2), 5), Job((3,), 9)], "x", make)
        assert [list(each.token_ids) for each in outputs] == [expected_tokens(each) for each in requests]
        assert [sum(tokens for _, tokens in each.pieces) for each in outputs] == [5, 9]
        assert batch.full_batch_rate([each.pieces for each in outputs]).per_s == pytest.approx(20.0)
        assert lane.idle

    virtual.run(scenario())


def test_a_batch_ends_when_it_made_enough_and_nothing_stays_on_the_lane() -> None:
    async def scenario() -> None:
        lane = SlowLane("a", turn_s=0.1)
        lane.step_tokens = 3
        await lane.start(lambda lane, stage: None)
        jobs = [Job((number,), 100) for number in range(4)]
        make = lambda name, job: make_request(name, job.prompt_token_ids, job.max_tokens)  # noqa: E731
        outputs = await batch.run(lane, jobs, "x", make, enough=24)
        rate = batch.full_batch_rate([each.pieces for each in outputs])
        assert rate.tokens == 24
        assert rate.per_s == pytest.approx(4 * 3 / 0.1)
        assert lane.idle

    virtual.run(scenario())
