"""Stages: episodes of simulated or of live lanes, as the agent's thread handles them."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Protocol

from envs.live import Live, LiveLoop, LivePlant, rested
from envs.parts import Part
from envs.reward import Cost, Ledger
from envs.scenario import Scenario
from envs.session import Session
from envs.settings import Settings
from envs.talk import Broken, End, Talk
from streamserve import virtual
from streamserve.clock import now
from streamserve.lanes.sim.calibration import Calibration
from streamserve.scheduler.scheduler import StreamScheduler
from streamserve.simulation.plant import Plant as Simulated
from streamserve.simulation.plant import simulated
from streamserve.simulation.run import maker
from streamserve.types import Result

END_LIMIT_S = 60.0


class Stage(Protocol):
    """Where episodes take place, one at a time."""

    def known(self, settings: Settings) -> Settings:
        """The settings, with what only the place itself knows."""
        ...

    def begin(self, scenario: Scenario, settings: Settings) -> None:
        """Start an episode."""
        ...

    def next(self) -> Any:
        """The next question, or an `End`."""
        ...

    def answer(self, asked: Any, answer: Any) -> None: ...

    def results(self) -> Sequence[Result]:
        """Of the episode, so far."""
        ...

    def notes(self) -> Mapping[str, Any]:
        """What else `info` tells."""
        ...

    def end(self) -> None:
        """Drop the episode, if there is one."""
        ...

    def close(self) -> None:
        """End the episode and give everything back; idempotent."""
        ...


class SimStage:
    """Simulated lanes: every episode has its own virtual loop, in a thread that ends with it."""

    def __init__(self, calibration: Calibration, part: Part) -> None:
        self._calibration = calibration
        self._part = part
        self._talk: Talk[Any, Any] = Talk()
        self._thread: threading.Thread | None = None
        self._session: Session | None = None

    def known(self, settings: Settings) -> Settings:
        return settings

    def begin(self, scenario: Scenario, settings: Settings) -> None:
        self.end()
        ledger = Ledger(0.0)
        planned = scenario.traffic.planned(settings.requests if settings.drain else None)
        make = maker(self._calibration, scenario.options.seed)
        session = Session(planned, make, ledger, settings.drain_limit_s)
        talk: Talk[Any, Any] = Talk()

        async def main() -> End:
            main_task = asyncio.current_task()
            assert main_task is not None
            asking = self._part.waiting(scenario.config, ledger, talk, lambda: _cancel(main_task))
            plant = simulated(scenario.config, self._calibration, scenario.options, session.ended, asking.router)
            return await session.run(_SimPlant(plant), asking.tick, settings.tick_s)

        def run() -> None:
            try:
                talk.post(virtual.run(main()))
            except asyncio.CancelledError:
                # Nobody waits for this episode any more.
                return
            except virtual.Deadlock as error:
                talk.post(End(ledger.at_s, Cost(), f"the simulation can go no further: {error}"))
            except BaseException as error:
                talk.post(Broken(error))

        self._talk, self._session = talk, session
        self._thread = threading.Thread(target=run, name="streamserve-sim", daemon=True)
        self._thread.start()

    def next(self) -> Any:
        return self._talk.next()

    def answer(self, asked: Any, answer: Any) -> None:
        self._talk.answer(answer)

    def results(self) -> Sequence[Result]:
        return () if self._session is None else tuple(self._session.results)

    def notes(self) -> Mapping[str, Any]:
        return {}

    def end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._talk.abandon()
            thread.join()

    def close(self) -> None:
        self.end()


def _cancel(task: asyncio.Task[End]) -> None:
    task.cancel()


class _SimPlant:
    """A simulated plant, whose lanes fail only as its scenario says."""

    def __init__(self, plant: Simulated) -> None:
        self._plant = plant

    @property
    def scheduler(self) -> StreamScheduler:
        return self._plant.serving.scheduler

    async def start(self) -> None:
        await self._plant.start()

    async def lost(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def aclose(self) -> None:
        await self._plant.aclose()


class LiveStage:
    """Live lanes, which stay up from the first episode to `close`."""

    def __init__(self, live: Live, part: Part) -> None:
        self._live = live
        self._part = part
        self._loop: LiveLoop | None = None
        self._talk: Talk[Any, Any] = Talk()
        self._episode: Future[None] | None = None
        self._session: Session | None = None
        self._plant: LivePlant | None = None
        self._deliver: Any = None
        self._task: asyncio.Task[Any] | None = None

    def known(self, settings: Settings) -> Settings:
        return settings

    def begin(self, scenario: Scenario, settings: Settings) -> None:
        """Raises `LaneLost` when the lanes do not become ready and idle, and what bringing them up raises."""
        self.end()
        if self._loop is None:
            self._loop = LiveLoop(self._live)
        lanes = self._loop.lanes()
        self._loop.submit(rested(lanes, self._live)).result()
        self._talk = Talk()
        begun: Future[None] = Future()
        self._episode = self._loop.submit(self._run(lanes, scenario, settings, begun))
        begun.result()

    async def _run(self, lanes: Sequence[Any], scenario: Scenario, settings: Settings, begun: "Future[None]") -> None:
        talk = self._talk
        self._task = asyncio.current_task()
        try:
            ledger = Ledger(now())
            planned = scenario.traffic.planned(settings.requests if settings.drain else None)
            session = self._session = Session(planned, self._live.make_request, ledger, settings.drain_limit_s)
            asking = self._part.posting(scenario.config, ledger, talk)
            plant = self._plant = LivePlant(lanes, scenario.config, session.ended, asking.router)
            self._deliver = asking.deliver
            begun.set_result(None)
            talk.post(await session.run(plant, asking.tick, settings.tick_s))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if begun.done():
                talk.post(Broken(error))
            else:
                begun.set_exception(error)

    def next(self) -> Any:
        """Raises `TimeoutError`."""
        while True:
            try:
                return self._talk.next(self._live.decision_limit_s)
            except TimeoutError:
                # With the last request sent, and decided on, there may be nothing to ask until the lanes have drained,
                # for which the session has a limit of its own.
                if self._session is None or not self._session.sent:
                    raise

    def answer(self, asked: Any, answer: Any) -> None:
        assert self._loop is not None and self._plant is not None
        self._loop.loop.call_soon_threadsafe(self._deliver, asked, answer, self._plant.scheduler)

    def results(self) -> Sequence[Result]:
        return () if self._session is None else tuple(self._session.results)

    def notes(self) -> Mapping[str, Any]:
        return {}

    def end(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            assert self._loop is not None and self._task is not None
            # Not the future's own `cancel`: that would not wait until the scheduler is closed.
            self._loop.loop.call_soon_threadsafe(self._task.cancel)
            with suppress(CancelledError):
                episode.result(END_LIMIT_S)

    def close(self) -> None:
        self.end()
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()
