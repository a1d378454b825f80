"""StreamScheduler: every request's way from admission to its result."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import replace

from streamserve.clock import now
from streamserve.config import Config
from streamserve.errors import LaneLost, Stopping
from streamserve.protocols import Engine, Router, ServedStream, TokenStream
from streamserve.scheduler.admission import Admission
from streamserve.scheduler.binding import Binding
from streamserve.scheduler.load import Dispatched, Load
from streamserve.scheduler.order import due_s
from streamserve.scheduler.record import Record
from streamserve.scheduler.work import Work, WorkEstimate, costs
from streamserve.signals import DepthControl, LaneSignals, Signals
from streamserve.stream import Stream
from streamserve.types import Chunk, Decision, LaneId, LaneState, Request, Result, Slo

logger = logging.getLogger(__name__)

STOPPING = "the server is shutting down; send the request again once it is back"


class StreamScheduler:
    """Admits requests, has them routed and run, and starts them again where that is invisible to the client.

    on_result: told of every request that `serve` took, once, when it holds nothing any more; the router learns from
    it right after.
    lane_ready: waits until a lane becomes ready.
    """

    def __init__(
        self,
        engine: Engine,
        router: Router,
        config: Config,
        on_result: Callable[[Result], None],
        lane_ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._router = router
        self._config = config.scheduler
        self._on_result = on_result
        self._slo = Slo(config.slo.ttft_s, config.slo.tpot_s)
        self._admission = Admission(self._config, self._dispatch, self._any_ready, lane_ready)
        self._binding = Binding(self._config, config.stream_pairs())
        self._load = Load()
        self._work = WorkEstimate()
        self._open: set[Stream] = set()
        self._stopping = False

    def check(self, n: int = 1) -> None:
        """Raises `Overloaded` if `n` more requests would not find room, `Stopping` after `close`."""
        self._refuse_when_stopping()
        self._admission.check(n)

    def signals(self) -> Signals:
        """What a router sees now."""
        return self._signals(self._admission.queued)

    def look(self) -> None:
        """Dispatch whoever can be now: to be called when a router that was `Undecided` has its answer."""
        self._admission.look()

    def serve(self, request: Request, on_decision: Callable[[Decision], None]) -> ServedStream:
        """The request's output; nothing is taken before the first read. The caller reads to the end or closes.

        on_decision: told of the stream pair at every attempt.
        Raises `Stopping`; reading raises `Overloaded`, `NoLane`, `LaneLost` or `Stopping`.
        """
        self._refuse_when_stopping()
        self._binding.saw(request, now())
        due = due_s(request, request.slo, self._slo, self._config, self._predict)
        record = Record(_with_defaults(request, self._slo), due)

        def end(error: BaseException | None) -> None:
            self._open.discard(stream)
            if stream.satisfied:
                record.stopped()
                # What its client has is whole, whatever has come in between since.
                error = None
            self._ended(record, error)

        stream = Stream(self._chunks(record, on_decision), end)
        self._open.add(stream)
        return stream

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None:
        """Set a lane's depth control, as `Lane.control`. Raises `UnknownLane`, `NotSpeculating`, `LaneLost`."""
        await self._engine.control(lane, control, ttl_s)

    async def close(self) -> None:
        """Refuse new requests and end all others with `Stopping`; idempotent."""
        self._stopping = True
        self._admission.stop()
        await asyncio.gather(*(stream.aclose(Stopping(STOPPING)) for stream in self._open))
        await self._admission.stopped()

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise Stopping(STOPPING)

    async def _chunks(self, record: Record, on_decision: Callable[[Decision], None]) -> AsyncGenerator[Chunk, None]:
        try:
            while True:
                dispatched = await self._admission.enter(record)
                try:
                    stream = self._begin(record, dispatched, on_decision)
                    try:
                        async for chunk in stream:
                            record.add(chunk)
                            yield chunk
                        # The reader closes this generator at a finish, so getting here means that there was none.
                        decode = dispatched.decision.decode
                        message = f"lane {decode} ended the output of {record.request.id} without a finish"
                        raise LaneLost(message, lane=decode)
                    except LaneLost as error:
                        self._lost(record, dispatched.decision, error)
                    finally:
                        await stream.aclose()
                finally:
                    dispatched.finished()
        finally:
            self._admission.leave(record)

    def _begin(self, record: Record, dispatched: Dispatched, on_decision: Callable[[Decision], None]) -> TokenStream:
        record.decided(dispatched.decision, now())
        on_decision(dispatched.decision)

        def prefilled() -> None:
            dispatched.prefilled()
            self._admission.look()

        return self._engine.stream(record.request, dispatched.decision, prefilled, tuple(record.sent))

    def _dispatch(self, record: Record) -> Dispatched | None:
        """Have it routed and count its load; None while it should wait for a lane with room. Raises `NoLane`."""
        # A new request is still in the line while it is looked at.
        signals = self._signals(self._admission.queued - (not record.placed), record.failed)
        if signals.room is not None and not signals.room:
            # Whoever lost its lane has waited already, so it does not wait for room.
            if not record.placed and _any_ready(signals):
                return None
            signals = replace(signals, room=None)
        decision = self._router.route(record.request, signals)
        if record.sent:
            decision = _on_one_lane(decision, f"resumes after {len(record.sent)} tokens")
        elif decision.disaggregated and not record.request.splittable:
            decision = _on_one_lane(decision, "its prompt must be read by one engine")
        cached_tokens = decision.prediction.cached_tokens if decision.prediction else 0
        tokens = record.request.prompt_tokens + len(record.sent)
        return Dispatched(self._load, decision, max(0, tokens - cached_tokens))

    def _signals(self, queued: int, failed: Collection[LaneId] = ()) -> Signals:
        lanes = self._engine.signals()
        if failed:
            lanes = _avoiding(failed, lanes)
        load = self._load.of(lanes)
        at_s = now()
        return Signals(at_s, lanes, load, queued, self._binding.room(lanes, load, at_s))

    def _any_ready(self) -> bool:
        return any(lane.state is LaneState.READY for lane in self._engine.signals().values())

    def _predict(self, request: Request) -> Work:
        return self._work.of(request, costs(self._engine.signals()))

    def _ended(self, record: Record, error: BaseException | None) -> None:
        result = record.result(now(), error)
        if result.finish.by_itself:
            self._work.learn(record.request.max_tokens, result.output_tokens)
        self._on_result(result)
        try:
            self._router.learn(result)
        except Exception:
            # The request itself is over and well; a router that cannot learn still routes.
            logger.exception("the router could not learn from request %s; see the traceback", result.request_id)

    def _lost(self, record: Record, decision: Decision, error: LaneLost) -> None:
        """Note who failed; raises `LaneLost` unless the request may be started again."""
        given_up = record.attempts >= self._config.max_attempts
        if record.started and not (self._config.resume and record.request.continuable):
            message = f"{error}; {record.output_tokens} tokens were sent already: send the request again"
            raise LaneLost(message, lane=error.lane, given_up=given_up) from error
        if given_up:
            advice = "retry later, the server's log says why lanes die"
            message = f"{error}; gave up after {record.attempts} attempts: {advice}"
            raise LaneLost(message, lane=error.lane, given_up=True) from error
        record.failed |= self._suspects(decision, error)

    def _suspects(self, decision: Decision, error: LaneLost) -> set[LaneId]:
        if error.lane is not None:
            return {error.lane}
        pair = {decision.prefill, decision.decode}
        lanes = self._engine.signals()
        # Where both lanes look well again already, either may have been it.
        return {lane for lane in pair if lanes[lane].state is not LaneState.READY} or pair


def _on_one_lane(decision: Decision, why: str) -> Decision:
    if not decision.disaggregated:
        return replace(decision, reason=f"{decision.reason}; {why}")
    # What the router predicted, it predicted of the pair.
    return replace(decision, prefill=decision.decode, reason=f"{decision.reason}; {why}", prediction=None)


def _with_defaults(request: Request, slo: Slo) -> Request:
    wished = request.slo.over(slo)
    return request if wished == request.slo else replace(request, slo=wished)


def _any_ready(signals: Signals) -> bool:
    return any(signals.ready(lane) for lane in signals.lanes)


def _avoiding(failed: Collection[LaneId], lanes: Mapping[LaneId, LaneSignals]) -> Mapping[LaneId, LaneSignals]:
    """The lanes with these shown as lost, unless no other is ready."""
    if not any(snapshot.state is LaneState.READY for lane, snapshot in lanes.items() if lane not in failed):
        return lanes
    return {
        lane: replace(snapshot, state=LaneState.LOST) if lane in failed else snapshot
        for lane, snapshot in lanes.items()
    }
