"""StreamScheduler: every request's way from admission to its result."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

from streamserve.clock import now
from streamserve.config import SchedulerConfig
from streamserve.errors import LaneLost, NoLane, Stopping
from streamserve.protocols import Engine, Router, TokenStream
from streamserve.scheduler.admission import Admission
from streamserve.scheduler.load import Dispatched, Load
from streamserve.scheduler.record import Record
from streamserve.signals import Signals
from streamserve.stream import Stream
from streamserve.types import Chunk, Decision, LaneId, LaneState, Request, Result

STOPPING = "the server is shutting down; send the request again once it is back"


class StreamScheduler:
    """Admits requests, has them routed and run, and starts them again where that is invisible to the client.

    on_result: told of every request that `serve` took, once, when it holds nothing any more.
    lane_ready: waits until a lane becomes ready.
    """

    def __init__(
        self,
        engine: Engine,
        router: Router,
        config: SchedulerConfig,
        on_result: Callable[[Result], None],
        lane_ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._router = router
        self._config = config
        self._on_result = on_result
        self._lane_ready = lane_ready
        self._admission = Admission(config.max_dispatched, config.max_queued)
        self._load = Load()
        self._open: set[Stream] = set()
        self._stopping = False

    def check(self, n: int = 1) -> None:
        """Raises `Overloaded` if `n` more requests would not find room, `Stopping` after `close`."""
        self._refuse_when_stopping()
        self._admission.check(n)

    def signals(self) -> Signals:
        """What a router sees now."""
        lanes = self._engine.signals()
        return Signals(now(), lanes, self._load.of(lanes), self._admission.queued)

    def serve(self, request: Request, on_decision: Callable[[Decision], None]) -> TokenStream:
        """The request's output; nothing is taken before the first read. The caller reads to the end or closes.

        on_decision: told of the stream pair at every attempt.
        Raises `Stopping`; reading raises `Overloaded`, `NoLane`, `LaneLost` or `Stopping`.
        """
        self._refuse_when_stopping()
        record = Record(request)

        def end(error: BaseException | None) -> None:
            self._open.discard(stream)
            self._on_result(record.result(now(), error))

        stream = Stream(self._chunks(record, on_decision), end)
        self._open.add(stream)
        return stream

    async def close(self) -> None:
        """Refuse new requests and end all others with `Stopping`; idempotent."""
        self._stopping = True
        await asyncio.gather(*(stream.aclose(Stopping(STOPPING)) for stream in self._open))

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise Stopping(STOPPING)

    async def _chunks(self, record: Record, on_decision: Callable[[Decision], None]) -> AsyncGenerator[Chunk, None]:
        request = record.request
        await self._admission.acquire(request.priority, request.arrived_s)
        try:
            while True:
                decision = await self._route(record)
                record.decided(decision)
                on_decision(decision)
                sent = tuple(record.sent)
                dispatched = Dispatched(self._load, decision, request.prompt_tokens + len(sent))
                stream = self._engine.stream(request, decision, dispatched.prefilled, sent)
                try:
                    async for chunk in stream:
                        record.add(chunk)
                        yield chunk
                    # The reader closes this generator at a finish, so getting here means that there was none.
                    message = f"lane {decision.decode} ended the output of {request.id} without a finish"
                    raise LaneLost(message, lane=decision.decode)
                except LaneLost as error:
                    self._lost(record, decision, error)
                finally:
                    try:
                        await stream.aclose()
                    finally:
                        dispatched.finished()
        finally:
            self._admission.release()

    async def _route(self, record: Record) -> Decision:
        try:
            return self._decide(record)
        except NoLane as error:
            # Nothing suspends between this look at the signals and the wait, so no lane becomes ready unnoticed.
            return await self._route_when_ready(record, error)

    async def _route_when_ready(self, record: Record, error: NoLane) -> Decision:
        try:
            async with asyncio.timeout(self._config.lane_wait_s):
                while True:
                    await self._lane_ready()
                    try:
                        return self._decide(record)
                    except NoLane as still:
                        error = still
        except TimeoutError:
            raise NoLane(f"waited {self._config.lane_wait_s:g} s for a lane: {error}") from error

    def _decide(self, record: Record) -> Decision:
        decision = self._router.route(record.request, _avoiding(record.failed, self.signals()))
        if record.sent:
            return _on_one_lane(decision, f"resumes after {len(record.sent)} tokens")
        if decision.disaggregated and not record.request.splittable:
            return _on_one_lane(decision, "its prompt must be read by one engine")
        return decision

    def _lost(self, record: Record, decision: Decision, error: LaneLost) -> None:
        """Note who failed; raises `LaneLost` unless the request may be started again."""
        if record.started and not (self._config.resume and record.request.continuable):
            message = f"{error}; {record.output_tokens} tokens were sent already: send the request again"
            raise LaneLost(message, lane=error.lane) from error
        if record.attempts >= self._config.max_attempts:
            advice = "retry later, the server's log says why lanes die"
            raise LaneLost(f"{error}; gave up after {record.attempts} attempts: {advice}", lane=error.lane) from error
        record.failed |= self._suspects(decision, error)

    def _suspects(self, decision: Decision, error: LaneLost) -> set[LaneId]:
        if error.lane is not None:
            return {error.lane}
        pair = {decision.prefill, decision.decode}
        lanes = self._engine.signals()
        # Where both lanes look well again already, either may have been it.
        return {lane for lane in pair if lanes[lane].state is not LaneState.READY} or pair


def _on_one_lane(decision: Decision, why: str) -> Decision:
    return replace(decision, prefill=decision.decode, reason=f"{decision.reason}; {why}")


def _avoiding(failed: set[LaneId], signals: Signals) -> Signals:
    """The signals with these lanes shown as lost, unless no other is ready."""
    if not failed or not any(signals.ready(lane) for lane in signals.lanes if lane not in failed):
        return signals
    lanes = {
        lane: replace(snapshot, state=LaneState.LOST) if lane in failed else snapshot
        for lane, snapshot in signals.lanes.items()
    }
    return replace(signals, lanes=lanes)
