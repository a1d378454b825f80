"""The bound on what an agent may cost, in virtual time: whatever it does, no request waits longer for it in all."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.clock import now
from streamserve.config import Config, LaneConfig, PolicyConfig
from streamserve.metrics.policy import Fallback
from streamserve.policy.codec import Codec
from streamserve.policy.seat import Wish
from streamserve.policy.switch import PolicySwitch
from streamserve.policy.wire import Ask, Over, Reply, Told
from streamserve.scheduler.watched import Watched
from streamserve.types import LaneId, Result
from streamserve.virtual import run
from tests.fakes import make_request
from tests.scheduler.rack import Rack, read

BUDGET_S = 0.2
OWN = (("a", "a"), ("b", "b"))
CODEC = Codec()
WISH = Wish(schema=CODEC.schema_hash(), most_pairs=8, depth_caps=CODEC.depth_caps, budget_s=BUDGET_S)

Seconds = st.floats(0.0, 0.5)
Thoughts = st.lists(st.one_of(Seconds, st.none()), max_size=30)
"""Before each answer; None = it never comes."""


def config() -> Config:
    lanes = [LaneConfig(LaneId(id)) for id in ("a", "b")]
    return Config(lanes=lanes, pairs="own", policy=PolicyConfig(source="heuristic", remote=True))


class Scene:
    """A rack whose router has a seat, and an agent that thinks as long as it is told to."""

    def __init__(self, thoughts: Sequence[float | None]) -> None:
        self.switch = PolicySwitch(config())
        self.told: list[Told] = []
        self._thoughts = iter(thoughts)

    @property
    def seat(self) -> Any:
        assert self.switch.seat is not None
        return self.switch.seat

    def send(self, message: Told) -> None:
        self.told.append(message)
        if isinstance(message, Ask):
            pause_s = next(self._thoughts, None)
            if pause_s is not None:
                asyncio.get_running_loop().call_later(pause_s, self._reply, message.number)

    def _reply(self, number: int) -> None:
        if self.seat.agent is not None:
            self.seat.agent.reply(Reply(number, number % 2))

    async def serve(self, gaps_s: Sequence[float], leaves_s: float | None = None) -> list[Result]:
        """Requests with these gaps between them, all served to their ends."""
        async with Rack(OWN, router=self.switch, late_binding="auto") as rack:
            watched = Watched(rack.scheduler, self.seat)
            self.seat.take(WISH, self.send, rack.scheduler.look)
            if leaves_s is not None:
                asyncio.get_running_loop().call_later(leaves_s, self.seat.leave)
            reading = []
            for number, gap_s in enumerate(gaps_s):
                await asyncio.sleep(gap_s)
                request = make_request(f"r{number}", arrived_s=now())
                reading.append(asyncio.create_task(read(watched.serve(request, rack.decisions.append))))
            served = await asyncio.gather(*reading)
            await rack.assert_empty()
            assert [len(each) for each in served] == [4] * len(gaps_s)
            return rack.results


def waits(results: Sequence[Result]) -> list[float]:
    return [(result.dispatched_s or 0.0) - result.arrived_s for result in results]


@given(gaps_s=st.lists(Seconds, min_size=1, max_size=20), thoughts=Thoughts, leaves_s=st.one_of(Seconds, st.none()))
@settings(max_examples=50, deadline=None)
def test_whatever_it_does_no_request_waits_longer_and_all_are_served(
    gaps_s: list[float], thoughts: list[float | None], leaves_s: float | None
) -> None:
    scene = Scene(thoughts)
    results = run(scene.serve(gaps_s, leaves_s))
    assert max(waits(results)) <= BUDGET_S + 1e-6
    tally = scene.switch.tally
    assert tally.total == len(gaps_s)
    by_agent = tally.decisions.get(("agent", "policy"), 0)
    counted = sum(count for reason, count in tally.fallbacks.items() if reason is not Fallback.GONE)
    alone = tally.decisions.get(("heuristic", "heuristic"), 0)
    assert by_agent + counted + alone == len(gaps_s)
    assert alone == 0 or leaves_s is not None


def test_a_prompt_agent_decides_everything() -> None:
    scene = Scene([0.001] * 20)
    results = run(scene.serve([0.01] * 20))
    assert {result.decision.router for result in results if result.decision} == {"agent"}
    assert scene.switch.tally.fallbacks == {}
    assert not any(isinstance(message, Over) for message in scene.told)


@pytest.mark.parametrize(
    ("thoughts", "expected"),
    [
        ([None], {Fallback.LATE: 1, Fallback.COOLING: 4}),
        ([0.5, *[0.01] * 9], {Fallback.LATE: 1, Fallback.COOLING: 3}),
        ([0.05] * 9, {}),
    ],
)
def test_late_then_left_alone_until_it_has_answered(
    thoughts: list[float | None], expected: dict[Fallback, int]
) -> None:
    scene = Scene(thoughts)
    run(scene.serve([0.0, 0.21, 0.1, 0.1, 0.2]))
    assert scene.switch.tally.fallbacks == expected


def test_its_answers_come_in_time_and_yet_those_behind_have_waited_enough() -> None:
    scene = Scene([0.15] * 9)
    results = run(scene.serve([0.0] * 5))
    assert sorted(waits(results)) == pytest.approx([0.15, 0.2, 0.2, 0.2, 0.2])
    assert scene.switch.tally.fallbacks == {Fallback.LATE: 1, Fallback.COOLING: 3}
