"""Pauses of the machine: which runs are repeated, and that a blocked loop is told apart."""

import asyncio
import threading

import pytest

from streamserve.bench.steady import Gaps, Ticker, steady


class Scripted(Ticker):
    """A ticker that reports what the test says."""

    def __init__(self, machine_s: float) -> None:
        super().__init__()
        self._script = Gaps(machine_s, 0.0)

    @property
    def gaps(self) -> Gaps:
        return self._script


@pytest.mark.parametrize(
    ("pauses_s", "kept"), [([0.1, 9, 9], 1), ([3.0, 0.2, 9], 2), ([3.0, 3.0, 0.2], 3), ([3.0, 3.0, 3.0, 0.1], 3)]
)
async def test_a_run_with_a_pause_is_repeated_twice_at_most(pauses_s: list[float], kept: int) -> None:
    attempts: list[int] = []
    notes: list[str] = []

    async def measure() -> int:
        attempts.append(len(attempts) + 1)
        return attempts[-1]

    pauses = iter(pauses_s)
    outcome, gaps = await steady(measure, notes.append, lambda: Scripted(next(pauses)))
    assert (outcome, gaps.machine_s) == (kept, pauses_s[kept - 1])
    assert len(notes) == sum(pause > 2 for pause in pauses_s[:kept])


async def test_a_blocked_loop_is_no_pause_of_the_machine() -> None:
    async with Ticker() as ticker:
        await asyncio.sleep(0)
        threading.Event().wait(0.5)
        await asyncio.sleep(0.05)
    assert ticker.gaps.loop_s > 0.3
    assert ticker.gaps.machine_s < ticker.gaps.loop_s
