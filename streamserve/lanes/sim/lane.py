"""`SimLane`: the `Lane` whose engine is a calibrated model."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from streamserve.clock import now
from streamserve.config import EngineConfig, SpeculationConfig
from streamserve.errors import LaneLost, LaneStartError, NotSpeculating, ServeError
from streamserve.lanes.sim.calibration import Calibration
from streamserve.lanes.sim.core import Core
from streamserve.lanes.sim.cost import StepTime
from streamserve.lanes.sim.drafts import Drafts
from streamserve.lanes.sim.frame import Frame
from streamserve.lanes.sim.host import Host
from streamserve.lanes.sim.jitter import Jitter
from streamserve.lanes.sim.meter import Meter, Report, Standing
from streamserve.lanes.sim.options import AS_CALIBRATED, LaneOptions
from streamserve.lanes.sim.past import Past
from streamserve.lanes.sim.sequence import Sequence as Running
from streamserve.protocols import Lane, Progress, TokenStream
from streamserve.signals import DepthControl, LaneSignals
from streamserve.types import Chunk, KVHandle, LaneId, LaneState, Prefilled, Request

SPEEDS = (1e-3, 1e3)
MOST_STEPS = 512
"""Steps of a stretch: its signals' averages are those of its beginning."""
STALE_STEPS = 8
"""The same where old signals are asked for, which are kept per stretch."""


class SimLane:
    """A simulated engine. A request's `payload` is `SimWork`, a chunk's `output` nothing.

    host: shared with the other lanes of the machine. rng: of this lane's noise.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        id: LaneId,
        calibration: Calibration,
        host: Host,
        engine: EngineConfig,
        speculation: SpeculationConfig,
        rng: np.random.Generator,
        options: LaneOptions = AS_CALIBRATED,
    ) -> None:
        self._id = id
        self._options = options
        self._default = None if speculation.method == "none" else speculation.default
        max_depth = min(speculation.max_depth, calibration.max_depth)
        drafts = Drafts(calibration, max_depth, options.acceptance_scale) if self._default is not None else None
        steps = StepTime(calibration.step)
        sigma = calibration.noise.step_sigma if host.noisy else 0.0
        self._frame = Frame(
            calibration,
            host,
            engine,
            speculation,
            steps,
            drafts,
            Jitter(sigma, steps.decode_s(1), rng) if sigma else None,
            STALE_STEPS if options.staleness_s else MOST_STEPS,
        )
        typical = LaneSignals(
            id,
            LaneState.STOPPED,
            0.0,
            max_running=engine.max_running,
            max_step_tokens=engine.max_step_tokens,
            stall_s=engine.stall_s,
            kv_tokens=calibration.kv_tokens,
            block_tokens=engine.block_tokens or calibration.block_tokens,
        )
        self._meter = Meter(typical, float(calibration.origin.cores_per_lane))
        self._speed = _checked_speed(options.speed)
        self._state = LaneState.STOPPED
        self._starts = 0
        self._error: str | None = None
        self._core: Core | None = None
        self._last = Report()
        self._depth: DepthControl | None = None
        self._depth_ends_s = 0.0
        self._gone = asyncio.Event()
        self._past = Past(options.staleness_s) if options.staleness_s else None

    @property
    def id(self) -> LaneId:
        return self._id

    def signals(self) -> LaneSignals:
        if self._core is None:
            return self._snapshot(self._last)
        if self._past is not None:
            return self._past.at(now(), self._core, self._standing(), self._last, self._snapshot)
        return self._snapshot(self._core.report(now()))

    async def start(self, progress: Progress) -> None:
        self._state = LaneState.STARTING
        self._starts += 1
        self._gone = asyncio.Event()
        progress(self.id, "starting")
        try:
            await asyncio.wait_for(self._gone.wait(), self._options.start_s)
        except TimeoutError:
            pass
        else:
            raise LaneStartError(f"{self.id} did not come up: {self._error}; start it again")
        self._error = None
        self._depth = None
        if self._past is not None:
            self._past.clear()
        self._core = Core(self._frame, self._meter, self._last, self._speed, self._remember if self._past else None)
        self._state = LaneState.READY
        progress(self.id, "ready")

    async def lost(self) -> str:
        await self._gone.wait()
        if self._state is LaneState.STOPPED:
            # Stopped on purpose, hence never lost: whoever waits for a loss waits until it is cancelled.
            await asyncio.get_running_loop().create_future()
        return self._error or "lost"

    async def prefill(self, request: Request) -> Prefilled:
        core = self._ready()
        running = self._submit(core, Running(request, request.max_tokens > 1, None, ()), ())
        try:
            chunk = await running.outputs.next()
        except BaseException:
            core.abort(running)
            core.free(running)
            raise
        assert chunk is not None
        if chunk.finish is not None:
            return Prefilled(chunk, None)
        return Prefilled(chunk, KVHandle(self.id, {"core": core, "sequence": running}))

    async def decode(self, request: Request, kv: KVHandle | None = None, sent: Sequence[int] = ()) -> TokenStream:
        core = self._ready()
        return SimStream(core, self._submit(core, Running(request, False, kv, sent), tuple(sent)))

    async def release(self, kv: KVHandle) -> None:
        if self._state is LaneState.READY:
            kv.params["core"].free(kv.params["sequence"])

    async def control(self, control: DepthControl | None, ttl_s: float) -> None:
        if self._default is None:
            raise NotSpeculating(f"{self.id} drafts nothing: configure speculation.method=history")
        core = self._ready()
        core.set_control(control, ttl_s)
        self._depth, self._depth_ends_s = control, now() + ttl_s

    async def aclose(self) -> None:
        if self._state is not LaneState.STOPPED:
            self._take_down(LaneState.STOPPED, f"{self.id} was stopped")

    def fail(self, reason: str) -> None:
        """Kill its engine now; does nothing where it has none."""
        if self._state in (LaneState.STARTING, LaneState.READY):
            self._error = reason
            self._take_down(LaneState.LOST, f"{self.id} is gone: {reason}")

    def change_speed(self, speed: float) -> None:
        """From its next step on it is so many times as fast as calibrated. Raises `ValueError`."""
        self._speed = _checked_speed(speed)
        if self._core is not None:
            self._core.change_speed(speed)

    def accept(self, scale: float) -> None:
        """Draft tokens are accepted with the calibrated probability times this from now on. Raises `ValueError`."""
        if not scale >= 0:
            raise ValueError(f"a scale of acceptance must be at least 0, got {scale}")
        if self._frame.drafts is not None:
            self._frame.drafts.scale(scale)
            if self._core is not None:
                self._core.retime()

    def _take_down(self, state: LaneState, message: str) -> None:
        self._state = state
        core, self._core = self._core, None
        self._depth = None
        if core is not None:
            core.kill(LaneLost(message, lane=self.id))
            self._last = core.ledger.last.idle()
        self._gone.set()

    def _ready(self) -> Core:
        if self._core is None or self._state is not LaneState.READY:
            raise LaneLost(f"{self.id} is {self._state}{f': {self._error}' if self._error else ''}", lane=self.id)
        return self._core

    def _submit(self, core: Core, running: Running, sent: tuple[int, ...]) -> Running:
        tokens, most = running.request.prompt_tokens + running.target, core.batch.cache
        if tokens > most.blocks * most.block_tokens:
            raise ServeError(
                f"{running.id} needs {tokens} tokens of KV and {self.id} has {most.blocks * most.block_tokens}: "
                "shorten it, or calibrate a lane with more"
            )
        core.submit(running, sent)
        return running

    def _snapshot(self, report: Report) -> LaneSignals:
        return self._meter.snapshot(report, self._standing(), self._core)

    def _standing(self) -> Standing:
        depth = self._depth if self._depth is not None and now() < self._depth_ends_s else self._default
        return Standing(self._state, depth, max(0, self._starts - 1), self._error)

    def _remember(self, report: Report) -> None:
        if self._past is not None:
            self._past.add(self._snapshot(report))


class SimStream:
    """The output of one request on a `SimLane`."""

    def __init__(self, core: Core, running: Running) -> None:
        self._core = core
        self._running = running

    def __aiter__(self) -> "SimStream":
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self._running.outputs.next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._running.outputs.close()
        self._core.abort(self._running)


def _checked_speed(speed: float) -> float:
    low, high = SPEEDS
    if not low <= speed <= high:
        raise ValueError(f"a lane's speed must be from {low:g} to {high:g} times the calibrated one, got {speed}")
    return speed


if TYPE_CHECKING:
    _lane: type[Lane] = SimLane
