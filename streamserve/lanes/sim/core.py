"""Core: the engine of a simulated lane, from one start to its end."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any

from streamserve.errors import LaneLost
from streamserve.lanes.sim.batch import Batch
from streamserve.lanes.sim.cache import Cache
from streamserve.lanes.sim.depths import Depths
from streamserve.lanes.sim.frame import Frame, warmed_up
from streamserve.lanes.sim.ledger import Ledger, OnReport
from streamserve.lanes.sim.meter import Meter, Report
from streamserve.lanes.sim.planner import Planner
from streamserve.lanes.sim.sequence import Sequence
from streamserve.lanes.sim.stretch import Stretch
from streamserve.signals import DepthControl
from streamserve.types import Chunk, Finish

HOLD_S = 480.0
"""A prompt's KV that nobody fetches is freed after this, as vLLM's NIXL connector does."""


class Core:
    """An engine: takes requests, makes steps, gives tokens, until it is killed.

    One timer is set at a time, for the end of the present stretch. Whatever happens in its middle ends it with the step
    that is in flight.
    meter: told of all work. report: what the engine before it reported last. speed: of its steps.
    """

    def __init__(
        self, frame: Frame, meter: Meter, report: Report, speed: float, on_report: OnReport | None = None
    ) -> None:
        self._frame = frame
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._speed = speed
        calibration, engine = frame.calibration, frame.engine
        cache = Cache(calibration.kv_tokens, engine.block_tokens or calibration.block_tokens)
        self.batch = Batch(cache, engine.max_running, self._fetch)
        self.cost = warmed_up(frame.steps, speed)
        max_depth = min(frame.speculation.max_depth, calibration.max_depth)
        self.depths = (
            Depths(frame.speculation.default, max_depth, frame.drafts, self._loop.time, self.cost)
            if frame.drafts is not None
            else None
        )
        self._planner = Planner(self.batch, frame, self.cost, self.depths)
        self._sequences: dict[Sequence, None] = {}
        self._held: dict[Sequence, float] = {}
        """Prefilled requests whose KV waits for a decode lane, and since when."""
        self._outbox: deque[list[tuple[Sequence, Chunk]]] = deque()
        self._stretch: Stretch | None = None
        self._timer: asyncio.Handle | None = None
        self._gone: LaneLost | None = None
        self._aborted: list[Sequence] = []
        self.ledger = Ledger(self.batch, meter, report, on_report)

    # What the lane asks for.

    def submit(self, sequence: Sequence, sent: tuple[int, ...]) -> None:
        """Take a request; the engine sees it after `Front.submit_s`."""
        sequence.hashed(self.batch.cache.block_tokens, sent)
        if self._frame.drafts is not None:
            sequence.speculates(self._frame.drafts)
        self._sequences[sequence] = None
        self._later(self._frame.calibration.front.submit_s, self._arrive, sequence)

    def abort(self, sequence: Sequence) -> None:
        """End a request, from the next step on; does nothing to one that is over."""
        if sequence.over or self._gone is not None:
            return
        self._over(sequence)
        if sequence.kv is not None:
            # Its connector tells the other lane that the KV is not needed.
            sequence.kv.params["core"].free(sequence.kv.params["sequence"])
        if self._stretch is None:
            self.batch.drop(sequence)
            self._look()
        else:
            self._aborted.append(sequence)
            self.retime()

    def holds(self, sequence: Sequence) -> bool:
        """Whether the KV of this prefilled request is still here."""
        return self._gone is None and sequence in self._held

    def free(self, sequence: Sequence) -> None:
        """The KV of a prefilled request is not needed any more; does nothing where it is gone."""
        if self._held.pop(sequence, None) is not None:
            self.batch.free(sequence)
            if self.batch.blocked:
                self.retime()
            self._look()

    def set_control(self, control: DepthControl | None, ttl_s: float) -> None:
        """Another depth control holds from the next step on. Raises `ValueError` on an invalid one."""
        assert self.depths is not None
        self.depths.set_control(control, ttl_s)
        self.retime()
        if control is not None and math.isfinite(ttl_s):
            self._later(ttl_s, self._control_ends)

    def change_speed(self, speed: float) -> None:
        """Steps take as long as this says from the next one on."""
        self._speed = speed
        self.retime()

    def retime(self) -> None:
        """Something that steps depend on has changed: a new stretch begins after the step in flight."""
        stretch = self._stretch
        if stretch is not None and stretch.cut(self._loop.time()):
            self._arm(stretch)

    def kill(self, reason: LaneLost) -> None:
        """Nothing of it is left; what readers were not given yet they get before the error."""
        at_s = self._loop.time()
        self._gone = reason
        if self._timer is not None:
            self._timer.cancel()
        if self._stretch is not None:
            done = self._stretch.done(at_s)
            self._account(self._stretch, done, self._stretch.instant(done))
            self._stretch = None
        while self._outbox:
            self._deliver()
        for sequence in self._sequences:
            if tokens := sequence.untold():
                sequence.outputs.put(Chunk(tuple(tokens), at_s, lane=self._meter.lane))
            sequence.outputs.fail(reason)
        self._frame.host.end(self)

    @property
    def acceptance(self) -> tuple[float, ...]:
        """Per draft position, as SpecuStream sees it; empty where nothing is drafted."""
        return self.depths.specustream.acceptance if self.depths is not None else ()

    def report(self, at_s: float) -> Report:
        """The counts after the last step that had ended at this instant, not before the present stretch."""
        return self.ledger.report(self._stretch, at_s)

    @property
    def since_s(self) -> float:
        """When the present stretch began; when the last one ended where there is none."""
        return self._stretch.start_s if self._stretch is not None else self.ledger.last.at_s

    # What happens in time.

    def _later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_later(delay_s, callback, *arguments)

    def _arrive(self, sequence: Sequence) -> None:
        if sequence.over or self._gone is not None:
            return
        blocked = self.batch.blocked
        self.batch.add(sequence)
        if self._stretch is None:
            self._look()
        elif not blocked:
            self.retime()

    def _fetch(self, sequence: Sequence) -> None:
        """Get a prompt's KV, as far as it is not here; the time counts from the end of the prefill hop."""
        calibration = self._frame.calibration
        tokens = max(0, sequence.fetched_tokens - sequence.computed)
        transfer_s = calibration.transfer.base_s + calibration.transfer.token_s * tokens
        self._later(max(0.0, transfer_s - calibration.front.submit_s), self._fetched, sequence, transfer_s)

    def _fetched(self, sequence: Sequence, transfer_s: float) -> None:
        if sequence.over or self._gone is not None:
            return
        assert sequence.kv is not None
        owner, held = sequence.kv.params["core"], sequence.kv.params["sequence"]
        if owner.holds(held):
            owner.free(held)
            self._meter.transfer.add(transfer_s, self._loop.time())
            self.batch.fetched(sequence)
        else:
            self.batch.not_fetched(sequence)
        self.retime()
        self._look()

    def _control_ends(self) -> None:
        if self.depths is not None and self._gone is None:
            self.depths.forget_answers()
            self.retime()

    def _look(self) -> None:
        """Begin a step if there is something to do and none is in flight."""
        if self._stretch is None and self._timer is None and self._gone is None:
            # Not at once: what arrives at the same instant shares the step.
            self._timer = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._timer = None
        self._expire()
        stretch = self._planner.plan(self._begin)
        if stretch is None:
            self._idle()
            return
        self._stretch = stretch
        self.ledger.began(stretch)
        self._arm(stretch)

    def _begin(self, stretch: Stretch) -> None:
        frame, start_s = self._frame, self._loop.time()
        frame.host.begin(self)
        scale = frame.host.factor / self._speed
        if frame.jitter is not None:
            scale *= frame.jitter.factor(start_s, stretch.steps)
        stretch.begin(frame.host, start_s, scale)

    def _arm(self, stretch: Stretch) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(stretch.end_s, self._end)

    def _end(self) -> None:
        stretch, self._stretch, self._timer = self._stretch, None, None
        assert stretch is not None
        self._account(stretch, stretch.steps, stretch.end_s)
        self._next()

    def _idle(self) -> None:
        self._frame.host.end(self)
        self.ledger.changed(self._loop.time())
        if self._held and self.batch.blocked:
            # Only KV that nobody fetches can be in the way.
            self._later(min(self._held.values()) + HOLD_S - self._loop.time(), self._look)

    def _expire(self) -> None:
        while self._held:
            sequence, since_s = next(iter(self._held.items()))
            if self._loop.time() < since_s + HOLD_S:
                break
            del self._held[sequence]
            self.batch.free(sequence)

    def _account(self, stretch: Stretch, steps: int, at_s: float) -> None:
        """Give out what the first so many steps of a stretch made."""
        if not steps:
            return
        made: list[tuple[Sequence, Chunk]] = []
        gains, first_tokens = stretch.gained(steps), 0
        for sequence, gained in zip(stretch.decoding, gains, strict=True):
            sequence.gain(gained, steps)
            if sequence.output >= sequence.tell_at:
                self._made(sequence, at_s, made)
        for sequence, tokens in stretch.chunks:
            sequence.computed += tokens
            if sequence.computed == sequence.to_compute:
                first_tokens += 1
                sequence.prefilled()
                if sequence.output >= sequence.tell_at:
                    self._made(sequence, at_s, made)
        if self._aborted:
            for sequence in self._aborted:
                self.batch.drop(sequence)
            self._aborted.clear()
        self.ledger.ended(stretch, steps, at_s, sum(gains), first_tokens)
        if made:
            self._outbox.append(made)
            # Chunks bear the instant of their step's end, as vLLM stamps them, and are there after the way back.
            self._later(at_s + self._frame.calibration.front.return_s - self._loop.time(), self._deliver)

    def _made(self, sequence: Sequence, at_s: float, made: list[tuple[Sequence, Chunk]]) -> None:
        if sequence.over:
            return
        finish = self._finish(sequence) if sequence.output >= sequence.end else None
        made.append((sequence, Chunk(tuple(sequence.untold()), at_s, finish, lane=self._meter.lane)))

    def _finish(self, sequence: Sequence) -> Finish | None:
        self._over(sequence)
        if sequence.continues:
            self.batch.retire(sequence)
            self._held[sequence] = self._loop.time()
            return None
        self.batch.drop(sequence)
        return sequence.finish

    def _over(self, sequence: Sequence) -> None:
        sequence.over = True
        del self._sequences[sequence]
        if self.depths is not None:
            self.depths.specustream.forget(sequence.id)

    def _deliver(self) -> None:
        if self._outbox:
            for sequence, chunk in self._outbox.popleft():
                sequence.outputs.put(chunk)
