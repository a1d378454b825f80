"""The log of engine steps while lanes are driven: each step with the cell it belongs to."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamserve.lanes.sim.fit_logs import Kind, Step

GAP_S = 0.001
"""From one step's end to the next one's begin, before any was measured."""
GAP_RATE = 0.05
"""Weight of a new gap in the average."""
LONGEST_GAP_S = 0.02
"""Longer ones are pauses of the machine."""
FEW = 2
"""Only steps of so few requests tell of the gap after those of a single one."""


@dataclass(slots=True)
class _Awaited:
    """Steps that decode at least so many requests and compute no prompt, until there were enough."""

    requests: int
    steps: int
    done: asyncio.Event


class StepRecorder:
    """Takes in every step's report; whoever drives the lanes says which cell they are in, None = not to be kept."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.cell: int | None = None
        self.kind: Kind = "decode"
        self._last: dict[int, Step] = {}
        """By lane: its last step, kept or not."""
        self._ended_s: dict[int, float] = {}
        """By lane: when its last step ended, if that left work."""
        self._gap_s = GAP_S
        self._awaited: dict[int, _Awaited] = {}

    def note(self, lane: int, at_s: float, report: Mapping[str, Any], left: int) -> None:
        """One report of an engine. at_s: when the step ended; left: requests that it left unfinished."""
        began_s = self._ended_s.pop(lane, None)
        if left:
            self._ended_s[lane] = at_s
        step_s = report.get("step_s")
        if step_s is None:
            return
        if began_s is None:
            time_s = step_s + self._gap_s
        else:
            time_s = at_s - began_s
            if step_s <= time_s < step_s + LONGEST_GAP_S and report["requests"] <= FEW:
                self._gap_s += GAP_RATE * (time_s - step_s - self._gap_s)
        step = Step(
            cell=-1 if self.cell is None else self.cell,
            kind=self.kind,
            lane=lane,
            at_s=at_s,
            time_s=time_s,
            prompt_tokens=report["prefill_tokens"],
            requests=report["requests"],
            draft_tokens=report["draft_tokens"],
            context_tokens=report["context_tokens"],
            attention_tokens=report["attention_tokens"],
        )
        self._last[lane] = step
        if self.cell is not None:
            self.steps.append(step)
        self._count(lane, step)

    def reached(self, lane: int, requests: int, steps: int) -> asyncio.Event:
        """Set after so many more steps of the lane in which so many requests decode and no prompt is computed."""
        awaited = self._awaited[lane] = _Awaited(requests, steps, asyncio.Event())
        return awaited.done

    def step_at(self, lane: int, at_s: float) -> Step | None:
        """The lane's last step, if it ended then."""
        last = self._last.get(lane)
        return last if last is not None and last.at_s == at_s else None

    def drop(self, cell: int) -> None:
        """Forget a cell that did not go as planned."""
        self.steps = [step for step in self.steps if step.cell != cell]

    def _count(self, lane: int, step: Step) -> None:
        awaited = self._awaited.get(lane)
        if awaited is not None and step.requests >= awaited.requests and not step.prompt_tokens:
            awaited.steps -= 1
            if awaited.steps <= 0:
                awaited.done.set()
