"""The seat's one place: who gives it back, and whose it is then."""

from streamserve.config import Config, LaneConfig, PolicyConfig
from streamserve.policy.seat import Seat, Wish
from streamserve.policy.switch import PolicySwitch
from streamserve.policy.wire import Told
from streamserve.types import LaneId


class Box:
    """Where an agent's messages go."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def put(self, message: Told) -> None:
        self.told.append(message)


def seat() -> Seat:
    policy = PolicyConfig(source="heuristic", remote=True)
    made = PolicySwitch(Config(lanes=[LaneConfig(LaneId("a"))], pairs="own", policy=policy)).seat
    assert made is not None
    return made


def look() -> None: ...


async def test_only_who_sits_there_gives_the_place_back() -> None:
    place, gone, here = seat(), Box(), Box()
    place.take(Wish(), gone.put, look)
    taken = []
    for leaves in (gone, gone, here, here):
        place.leave(leaves.put)
        taken.append(place.taken)
        if len(taken) == 1:
            place.take(Wish(), here.put, look)
    assert taken == [False, True, False, False]


async def test_a_server_that_stops_lets_go_of_anybody() -> None:
    place = seat()
    place.take(Wish(), Box().put, look)
    place.leave()
    assert not place.taken
