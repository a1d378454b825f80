"""SpecController: a trained policy sets the depth control of every speculating lane, again and again."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from streamserve.config import PolicyConfig
from streamserve.errors import LaneLost, NotSpeculating
from streamserve.metrics.policy import Fallback, PolicyTally
from streamserve.policy import interface
from streamserve.policy.guard import Envelope
from streamserve.policy.mode import Mode, Way
from streamserve.policy.network import Network, best
from streamserve.policy.rhythm import Rhythm
from streamserve.policy.store import Policy
from streamserve.signals import DepthControl, Signals
from streamserve.types import LaneId

logger = logging.getLogger(__name__)

TTL_TICKS = 3
"""Ticks that a control outlives without being renewed; then the lane goes back to its default."""


class Controllable(Protocol):
    """Whose lanes are controlled: the scheduler."""

    def signals(self) -> Signals: ...

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None: ...


class SpecPolicy:
    """A policy of kind `spec`: signals to the control of each speculating lane.

    Raises `PolicyError` if the policy's codec cannot be.
    """

    def __init__(self, policy: Policy, most_outside: float) -> None:
        self._codec = interface.lane_codec(policy.card)
        self._network = Network(policy.weights)
        self._envelope = Envelope(policy.card.envelope, most_outside)

    def controls(self, signals: Signals, rhythm: Rhythm) -> Mapping[LaneId, int | Fallback]:
        """Lane -> the index of its control, or why the policy is not followed there."""
        lanes = list(signals.lanes)[: self._codec.most_lanes]
        observation = self._codec.observe(signals, rhythm.at(signals.at_s))
        rows, context = observation["lanes"][: len(lanes)], observation["context"]
        logits = self._network.logits(rows, context, np.zeros(len(lanes), np.float32))
        mask = self._codec.mask(signals).reshape(self._codec.most_lanes, -1)
        answers: dict[LaneId, int | Fallback] = {}
        for row, lane in enumerate(lanes):
            if not mask[row].all():
                continue
            chosen = best(logits[row : row + 1], mask[row : row + 1])
            if not self._envelope.holds(lanes=rows[row], context=context):
                answers[lane] = Fallback.OUTSIDE
            else:
                answers[lane] = Fallback.NOT_FINITE if chosen is None else chosen[1]
        return answers

    def control(self, index: int) -> DepthControl:
        """The control that a choice means."""
        return self._codec.controls[index]


class SpecController:
    """Looks at every tick and renews the controls that a policy chooses.

    Raises `PolicyError` if the policy's codec cannot be.
    """

    def __init__(self, policy: Policy, mode: Mode, config: PolicyConfig, rhythm: Rhythm, tally: PolicyTally) -> None:
        self._policy = SpecPolicy(policy, config.outside)
        self._title = policy.card.name
        self._mode = mode
        self._tick_s = config.control_s
        self._rhythm = rhythm
        self._tally = tally
        self._task: asyncio.Task[None] | None = None

    def start(self, lanes: Controllable) -> None:
        """Control these lanes from now on."""
        if self._mode.way is not Way.HEURISTIC:
            self._task = asyncio.create_task(self._run(lanes))

    def stop(self) -> None:
        """Renew nothing any more; the lanes go back to their defaults within three ticks."""
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Stop, and wait until nothing of it is left to do; idempotent."""
        self.stop()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def tick(self, lanes: Controllable) -> None:
        """Look once."""
        wanted: dict[LaneId, DepthControl] = {}
        for lane, answer in self._policy.controls(lanes.signals(), self._rhythm).items():
            if isinstance(answer, Fallback):
                self._tally.fell_back(answer)
                self._tally.decided(str(self._mode.way), by_policy=False)
                continue
            self._tally.answered(answer == 0)
            # A canary's share is of the lanes here: a lane has one control for all of its requests.
            follows = self._mode.tries(lane)
            self._tally.decided(str(self._mode.way), by_policy=follows)
            if follows:
                wanted[lane] = self._policy.control(answer)
        # All at once: a lane answers between two of its steps, and a long step of one must not keep the others waiting.
        await asyncio.gather(*(self._set(lanes, lane, control) for lane, control in wanted.items()))

    async def _set(self, lanes: Controllable, lane: LaneId, control: DepthControl) -> None:
        try:
            async with asyncio.timeout(self._tick_s):
                await lanes.control(lane, control, TTL_TICKS * self._tick_s)
        except TimeoutError:
            # The engine has it, and acts on it after its step.
            logger.info("policy %s: %s was a whole tick in one step", self._title, lane)
        except (LaneLost, NotSpeculating) as error:
            # It was well a moment ago; the supervisor restarts it, and the next tick sees it again.
            logger.info("policy %s could not set the depth of %s: %s", self._title, lane, error)

    async def _run(self, lanes: Controllable) -> None:
        while True:
            try:
                await self.tick(lanes)
            except Exception:
                self._tally.fell_back(Fallback.FAILED)
                logger.exception("policy %s failed at a control tick; lanes go back to their defaults", self._title)
                return
            await asyncio.sleep(self._tick_s)
