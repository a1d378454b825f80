"""An agent of another process: who may come, what it is told, and that no request waits longer than it may."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from streamserve.config import Config, LaneConfig, PolicyConfig, SchedulerConfig
from streamserve.errors import ConfigError
from streamserve.metrics.policy import Fallback
from streamserve.policy import wire
from streamserve.policy.codec import Codec
from streamserve.policy.switch import PolicySwitch
from streamserve.types import LaneId
from tests.api.plant import Plant, plant
from tests.fakes import ticks

CODEC = Codec()
LONG_S = 20.0


def config(**policy: Any) -> Config:
    return Config(
        lanes=[LaneConfig(LaneId("a")), LaneConfig(LaneId("b"))],
        pairs="own",
        policy=PolicyConfig(**{"source": "heuristic", "remote": True, "remote_budget_s": LONG_S, **policy}),
        scheduler=SchedulerConfig(lane_wait_s=5.0),
    )


def address(server: Plant, **wish: Any) -> str:
    asked = {"schema": CODEC.schema_hash(), "most_pairs": 8, "depth_caps": json.dumps(CODEC.depth_caps), **wish}
    return f"{server.url.replace('http', 'ws')}/streamserve/agent?{urlencode(asked)}"


class Talk:
    """The agent's end, with the messages one by one."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._told: list[wire.Told] = []

    async def next(self, kind: Any) -> Any:
        """The next message of a kind; those before it are dropped."""
        async with asyncio.timeout(5):
            while True:
                while not self._told:
                    frame = await self.socket.recv()
                    assert isinstance(frame, bytes)
                    self._told += wire.told(frame)
                if isinstance(message := self._told.pop(0), kind):
                    return message

    async def reply(self, number: int, row: int, cap: int = 0) -> None:
        await self.socket.send(wire.say(wire.Reply(number, row, cap)))


@asynccontextmanager
async def attached(server: Plant, **wish: Any) -> AsyncIterator[Talk]:
    async with connect(address(server, **{"budget_s": LONG_S, **wish}), proxy=None, max_queue=None) as socket:
        talk = Talk(socket)
        await talk.next(wire.Hello)
        yield talk


@pytest.fixture
async def server() -> AsyncIterator[Plant]:
    async with plant(config()) as made:
        yield made


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def seat(server: Plant) -> Any:
    assert server.switch.seat is not None
    return server.switch.seat


def fallbacks(server: Plant) -> dict[Fallback, int]:
    return server.switch.tally.fallbacks


class TestWhoMayCome:
    @pytest.mark.parametrize(
        ("wish", "said"),
        [
            ({"schema": "other"}, "other observations"),
            ({"budget_s": LONG_S + 1}, "policy.remote_budget_s"),
            ({"budget_s": "soon"}, "budget_s"),
            ({"budget_s": "nan"}, "budget_s"),
            ({"most_pairs": 10**9}, "most_pairs"),
            ({"most_pairs": 0}, "most_pairs"),
            ({"depth_caps": "x"}, "malformed"),
            ({"depth_caps": "[1]"}, "depth_caps"),
            ({"format": 99}, "format 99"),
        ],
    )
    async def test_a_wish_that_cannot_be_met_is_422(self, server: Plant, wish: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(address(server, **wish), proxy=None)
        assert refusal.value.response.status_code == 422
        assert said in json.loads(refusal.value.response.body or b"")["error"]["message"]
        assert not seat(server).taken

    @pytest.mark.parametrize(("key", "status"), [(None, 401), ("wrong", 401), ("secret", None)])
    async def test_with_keys_one_of_them_is_needed(self, key: str | None, status: int | None) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with plant(config(), admin_keys=["secret"]) as server:
            if status is None:
                async with connect(address(server), additional_headers=headers, proxy=None) as socket:
                    await socket.recv()
                return
            with pytest.raises(InvalidStatus) as refusal:
                await connect(address(server), additional_headers=headers, proxy=None)
            assert refusal.value.response.status_code == status
            assert b"admin key" in (refusal.value.response.body or b"")

    async def test_a_server_takes_none_unless_it_is_told_to(self) -> None:
        async with plant(config(remote=False)) as server:
            with pytest.raises(InvalidStatus) as refusal:
                await connect(address(server), proxy=None)
            assert refusal.value.response.status_code == 403
            assert b"policy.remote=true" in (refusal.value.response.body or b"")

    async def test_one_at_a_time(self, server: Plant) -> None:
        async with attached(server):
            with pytest.raises(InvalidStatus) as refusal:
                await connect(address(server), proxy=None)
            assert refusal.value.response.status_code == 409
            assert b"another agent" in (refusal.value.response.body or b"")
        await until(lambda: not seat(server).taken)
        async with attached(server):
            pass

    def test_another_router_has_nothing_to_show(self) -> None:
        with pytest.raises(ConfigError, match="set router=flowguard"):
            PolicySwitch(Config([LaneConfig(LaneId("a"))], router="random", policy=PolicyConfig(remote=True)))


class TestDecisions:
    async def test_it_decides_and_is_told_what_comes_of_it(self, server: Plant) -> None:
        async with attached(server) as talk:
            serving = server.start("r1")
            arrived = await talk.next(wire.Arrived)
            ask = await talk.next(wire.Ask)
            shown = ask.shown(CODEC)
            assert (arrived.request_id, arrived.max_tokens) == ("r1", 4)
            assert shown.places == ((0, 0), (1, 1)) and shown.rows.tolist() == [True, True] + [False] * 6
            assert {name: values.shape for name, values in shown.observation.items()} == CODEC.shapes()
            assert set(ask.signals.lanes) == {"a", "b"}
            await talk.reply(ask.number, 1 - shown.heuristic, 2)
            began = await talk.next(wire.Began)
            result = (await talk.next(wire.Ended)).result
            assert await serving == 4
        (kept,) = server.results
        assert kept.decision is not None and result.decision is not None
        assert (kept.decision.router, kept.decision.max_depth) == ("agent", CODEC.depth_caps[2])
        assert kept.decision.decode == "ab"[1 - shown.heuristic] == result.decision.decode
        assert (result.first_token_s, result.finished_s) == (kept.first_token_s, kept.finished_s)
        assert began.at_s == kept.first_token_s
        assert server.switch.tally.decisions == {("agent", "policy"): 1}
        assert fallbacks(server) == {}

    async def test_the_server_says_that_it_is_there(self, server: Plant) -> None:
        async with attached(server), httpx.AsyncClient() as http:
            shown = (await http.get(f"{server.url}/streamserve/policy")).json()
        assert shown["agent"] == {"budget_s": LONG_S, "decisions": 0}

    async def test_whoever_is_in_the_system_is_told_at_the_start(self, server: Plant) -> None:
        for lane in server.lanes:
            lane.hold("token")
        one, two = server.start("r1"), server.start("r2")
        await until(lambda: sum(lane.waiting("token") for lane in server.lanes) == 2)
        assert any(lane.step("token") for lane in server.lanes)
        await ticks()
        async with attached(server) as talk:
            told = [(await talk.next((wire.Arrived, wire.Began))) for _ in range(3)]
            assert [type(each) for each in told].count(wire.Began) == 1
            assert {each.request_id for each in told} == {"r1", "r2"}
            for lane in server.lanes:
                lane.free()
            assert (await one, await two) == (4, 4)

    async def test_an_answer_that_is_no_action_is_flowguard_s(self, server: Plant) -> None:
        async with attached(server) as talk:
            for number, (row, cap) in enumerate([(7, 0), (-1, 0), (0, 99), (10**6, 0)], 1):
                serving = server.start(f"r{number}")
                await talk.reply((await talk.next(wire.Ask)).number, row, cap)
                await talk.next(wire.Over)
                assert await serving == 4
        assert fallbacks(server) == {Fallback.INVALID: 4}
        assert {result.decision.router for result in server.results if result.decision} == {"flowguard"}

    async def test_one_that_only_looks_decides_nothing(self, server: Plant) -> None:
        async with attached(server, schema="") as talk:
            await talk.socket.send(wire.say(wire.Look()))
            assert set((await talk.next(wire.Seen)).signals.lanes) == {"a", "b"}
            assert await server.start("r1") == 4
            assert (await talk.next(wire.Ended)).result.request_id == "r1"
        assert server.switch.tally.decisions == {("heuristic", "heuristic"): 1}


class TestNobodyWaitsTooLong:
    async def test_late_then_not_asked_until_it_has_answered(self, server: Plant) -> None:
        async with attached(server, budget_s=0.05) as talk:
            assert await server.start("r1") == 4
            ask = await talk.next(wire.Ask)
            await talk.next(wire.Over)
            assert await server.start("r2") == 4
            assert fallbacks(server) == {Fallback.LATE: 1, Fallback.COOLING: 1}
            await talk.reply(ask.number, 0)
            await until(lambda: seat(server).agent._owes is False)
            serving = server.start("r3")
            await talk.reply((await talk.next(wire.Ask)).number, 0)
            assert await serving == 4
        reasons = [result.decision.reason for result in server.results if result.decision]
        assert [reason.rpartition("not by the agent: ")[2] for reason in reasons[:2]] == ["late", "cooling"]
        assert server.results[2].decision is not None and server.results[2].decision.router == "agent"

    async def test_those_in_line_behind_wait_no_longer_in_all(self, server: Plant) -> None:
        """Each answer comes in time, and yet the last request's time is up before its turn."""
        async with attached(server, budget_s=0.3) as talk:
            serving = [server.start(f"r{number}") for number in range(12)]
            while isinstance(message := await talk.next((wire.Ask, wire.Over)), wire.Ask):
                # A slow agent.
                await asyncio.sleep(0.1)
                await talk.reply(message.number, 0)
            assert await asyncio.gather(*serving) == [4] * 12
        waits = [result.decision.at_s - result.arrived_s for result in server.results if result.decision]
        assert max(waits) < 0.3 + 0.5, "the bound, and what a busy machine adds"
        assert fallbacks(server)[Fallback.LATE] >= 1
        assert server.switch.tally.decisions[("agent", "policy")] >= 1

    async def test_a_connection_that_breaks_gives_flowguard_back_at_once(self, server: Plant) -> None:
        async with attached(server) as talk:
            serving = [server.start(f"r{number}") for number in range(3)]
            await talk.next(wire.Ask)
            talk.socket.transport.abort()
            assert await asyncio.gather(*serving) == [4] * 3
        assert fallbacks(server) == {Fallback.GONE: 1}
        assert server.switch.tally.decisions == {("heuristic", "heuristic"): 3}
        assert not seat(server).taken

    @pytest.mark.parametrize("said", [b"\xff\x00nonsense", b"", "text"])
    async def test_nonsense_ends_the_connection_and_no_request(self, server: Plant, said: bytes | str) -> None:
        async with attached(server) as talk:
            serving = server.start("r1")
            await talk.next(wire.Ask)
            await talk.socket.send(said)
            assert await serving == 4
            with pytest.raises(ConnectionClosed) as closed:
                await talk.next(wire.Seen)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1003
        assert fallbacks(server) == {Fallback.GONE: 1}

    async def test_a_request_that_is_asked_about_and_goes_away(self, server: Plant) -> None:
        async with attached(server) as talk:
            first, second = server.start("r1"), server.start("r2")
            old = await talk.next(wire.Ask)
            first.cancel()
            await ticks()
            server.serving.scheduler.look()
            assert (await talk.next(wire.Over)).number == old.number
            new = await talk.next(wire.Ask)
            await talk.reply(old.number, 0)
            await talk.reply(new.number, 1)
            assert await second == 4
        assert [result.request_id for result in server.results if result.decision] == ["r2"]

    async def test_lanes_that_change_meanwhile_are_asked_about_anew(self, server: Plant) -> None:
        async with attached(server) as talk:
            serving = server.start("r1")
            await talk.next(wire.Ask)
            server.lanes[1].die()
            server.serving.scheduler.look()
            ask = await talk.next(wire.Ask)
            assert len(ask.shown(CODEC).places) == 1
            await talk.reply(ask.number, 0)
            assert await serving == 4

    async def test_a_server_that_stops_lets_it_go(self) -> None:
        async with plant(config()) as server, attached(server) as talk:
            serving = server.start("r1")
            await talk.next(wire.Ask)
            server.server.should_exit = True
            with pytest.raises(ConnectionClosed):
                await talk.next(wire.Seen)
            assert await serving == 4

    async def test_none_is_refused_because_others_wait_for_it(self) -> None:
        full = msgspec.structs.replace(config(), scheduler=SchedulerConfig(max_queued=4))
        async with plant(full) as server, attached(server):
            serving = [server.start(f"r{number}") for number in range(12)]
            assert await asyncio.gather(*serving) == [4] * 12
        assert set(fallbacks(server)) == {Fallback.LATE, Fallback.COOLING}
