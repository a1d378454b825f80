"""How long requests wait for a lane while there is none for them."""

import asyncio

import pytest

from streamserve.errors import NoLane, Undecided
from streamserve.virtual import run
from tests.fakes import ticks
from tests.scheduler.desk import Desk

NO_ADAPTER = NoLane("no lane has its adapter")


async def waiting(ready: bool, waited_s: float) -> Desk:
    """A desk whose first request has waited `waited_s` of its 30 seconds: no lane suits it, or none is `ready`."""
    desk = Desk(9, 9, lane_wait_s=30.0)
    desk.ready = ready
    desk.refuses["r"] = NO_ADAPTER
    desk.join("r")
    await asyncio.sleep(waited_s)
    return desk


async def ends_at(desk: Desk, at_s: float, reason: str = "no lane is ready") -> None:
    """The first request waits until `at_s` and no longer."""
    with pytest.raises(NoLane, match=reason):
        await desk.tasks[0]
    assert asyncio.get_running_loop().time() == at_s
    await desk.close()


def test_a_request_that_no_ready_lane_suits_lets_others_pass_and_waits_its_time() -> None:
    async def main() -> None:
        desk = await waiting(ready=True, waited_s=10)
        desk.join("normal")
        await ticks()
        assert (desk.served, desk.admission.queued) == (["normal"], 1)
        await ends_at(desk, 30.0, "waited 30 s for a lane: no lane has its adapter")

    run(main())


def test_everybody_waits_as_long_for_a_lane() -> None:
    async def main() -> None:
        desk = Desk(2, 9, lane_wait_s=30.0)
        desk.ready = False
        ended: list[float] = []
        for at_s in (0.0, 12.0, 12.0, 20.0):
            await asyncio.sleep(at_s - asyncio.get_running_loop().time())
            desk.join("r")
            desk.tasks[-1].add_done_callback(lambda _: ended.append(asyncio.get_running_loop().time()))
        outcomes = await asyncio.gather(*desk.tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NoLane] * 4
        assert ended == [30.0, 42.0, 42.0, 50.0]
        await desk.close()

    run(main())


def test_the_wait_for_a_lane_begins_anew_once_one_was_ready() -> None:
    async def main() -> None:
        desk = await waiting(ready=False, waited_s=20)
        del desk.refuses["r"]
        desk.room = 0
        desk.become_ready()
        await asyncio.sleep(20)
        assert not desk.tasks[0].done()
        desk.ready = False
        desk.admission.look()
        await ends_at(desk, 70.0)

    run(main())


@pytest.mark.parametrize("ready", [False, True])
def test_who_is_being_decided_on_waits_for_no_lane_any_more(ready: bool) -> None:
    async def main() -> None:
        desk = await waiting(ready, waited_s=29.9)
        desk.refuses["r"] = Undecided()
        desk.become_ready()
        await asyncio.sleep(5)
        assert not desk.tasks[0].done()
        del desk.refuses["r"]
        desk.admission.look()
        await desk.tasks[0]
        assert desk.served == ["r"]
        await desk.close()

    run(main())


def test_who_is_being_decided_on_while_no_lane_is_ready_waits_its_time() -> None:
    async def main() -> None:
        desk = await waiting(ready=False, waited_s=20)
        desk.unready = Undecided()
        desk.admission.look()
        await ends_at(desk, 30.0, "waited 30 s")

    run(main())
