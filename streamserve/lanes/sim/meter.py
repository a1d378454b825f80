"""What a simulated lane's engine reports, as `LaneSignals`."""

from typing import NamedTuple, Protocol

from streamserve.averages import DecayedMean, MovingLatency
from streamserve.signals import DepthControl, DeviceSignals, LaneSignals, StepCost
from streamserve.specustream.cost import StepCostModel
from streamserve.types import LaneId, LaneState

STEP_AVERAGE_S = 5.0
"""Working time over which step time and output rate are averaged, as live lanes do."""
OUTPUT_RATE = 0.05
"""Weight of a new step in the moving average of tokens gained, as SpecuStream has it."""
BUSY_S = 1.0
"""Time over which the share that a lane works is averaged."""


class Report(NamedTuple):
    """An engine's counts after one of its steps."""

    at_s: float = 0.0
    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    queued_tokens: int = 0
    step_tokens: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0

    def idle(self) -> "Report":
        """The totals alone."""
        return self._replace(running=0, waiting=0, kv_used=0.0, queued_tokens=0, step_tokens=0)


class Standing(NamedTuple):
    """What the front knows by itself."""

    state: LaneState
    depth: DepthControl | None
    restarts: int
    error: str | None


class Found(Protocol):
    """What an engine's cache was good for."""

    @property
    def found_share(self) -> float: ...


class Learned(Protocol):
    """What an engine has learned: of steps, of drafts."""

    @property
    def cost(self) -> StepCostModel: ...

    @property
    def acceptance(self) -> tuple[float, ...]: ...

    @property
    def batch(self) -> Found: ...


class Meter:
    """Averages of a lane, and its snapshot: the same object until something changes.

    typical: a snapshot with everything that never changes. cores: that the lane keeps busy when it works.
    """

    def __init__(self, typical: LaneSignals, cores: float) -> None:
        self._typical = typical
        self._cores = cores
        self.transfer = MovingLatency()
        self._step_s = DecayedMean(STEP_AVERAGE_S)
        self._output_rate = DecayedMean(STEP_AVERAGE_S)
        self._busy = DecayedMean(BUSY_S)
        self._worked_s = 0.0
        self._until_s = 0.0
        self._step_output = 1.0
        self._cost = StepCost()
        self._acceptance: tuple[float, ...] = ()
        self._prefix_hit = 0.0
        self._shown: tuple[Report, Standing, LaneSignals] | None = None

    @property
    def lane(self) -> LaneId:
        return self._typical.lane

    def began(self, at_s: float) -> None:
        """The lane has work again, or its engine is new."""
        if at_s > self._until_s:
            self._busy.add(0.0, at_s, at_s - self._until_s)
            self._until_s = at_s

    def worked(self, start_s: float, end_s: float, steps: int, output_tokens: int) -> None:
        """So many steps were made between these instants."""
        self.began(start_s)
        spent_s = end_s - start_s
        if spent_s <= 0:
            return
        self._worked_s += spent_s
        self._step_s.add(spent_s / steps, self._worked_s, weight=steps)
        self._output_rate.add(output_tokens / spent_s, self._worked_s, weight=spent_s)
        self._busy.add(1.0, end_s, spent_s)
        self._until_s = end_s

    def gained(self, per_request: float, steps: int) -> None:
        """Tokens that each decoding request gained per step, over so many steps."""
        kept = (1.0 - OUTPUT_RATE) ** steps
        self._step_output = kept * self._step_output + (1.0 - kept) * per_request

    def snapshot(self, report: Report, standing: Standing, learned: Learned | None) -> LaneSignals:
        """The lane as of this report. learned: None where there is no engine; then what was known last stays."""
        shown = self._shown
        if shown is not None and shown[0] is report and shown[1] == standing:
            return shown[2]
        if learned is not None:
            self._cost, self._acceptance = learned.cost.cost, learned.acceptance
            self._prefix_hit = learned.batch.found_share
        snapshot = self._snapshot(report, standing)
        self._shown = report, standing, snapshot
        return snapshot

    def _snapshot(self, report: Report, standing: Standing) -> LaneSignals:
        typical = self._typical
        return LaneSignals(
            lane=typical.lane,
            state=standing.state,
            at_s=report.at_s,
            running=report.running,
            waiting=report.waiting,
            max_running=typical.max_running,
            max_step_tokens=typical.max_step_tokens,
            stall_s=typical.stall_s,
            kv_used=report.kv_used,
            kv_tokens=typical.kv_tokens,
            block_tokens=typical.block_tokens,
            prefix_hit=self._prefix_hit,
            prefill_queued_tokens=report.queued_tokens,
            step_s=self._step_s.value or 0.0,
            step_tokens=report.step_tokens,
            output_tokens_per_s=self._output_rate.value or 0.0,
            cost=self._cost,
            steps=report.steps,
            prompt_tokens_total=report.prompt_tokens,
            output_tokens_total=report.output_tokens,
            draft_tokens_total=report.draft_tokens,
            accepted_tokens_total=report.accepted_tokens,
            acceptance=self._acceptance,
            step_output=self._step_output,
            depth=standing.depth,
            transfer_s=self.transfer.averages,
            transfers_total=self.transfer.samples,
            device=DeviceSignals(report.at_s, self._cores * self._share(report)),
            restarts=standing.restarts,
            error=standing.error,
        )

    def _share(self, report: Report) -> float:
        return self._busy.value or 0.0 if report.running or report.waiting else 0.0
