"""What a calibration is fitted to: logs of steps, of requests on idle lanes, of hand-overs, and of drafts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

Kind = Literal["decode", "prompt", "mixed", "together", "handover", "real"]
"""What a cell does: decodes a batch, computes prompts, both, decodes while another lane comes and goes, ..."""


@dataclass(frozen=True, slots=True)
class Step:
    """One engine step."""

    cell: int
    """Of the run of steps that it belongs to: steps of one cell share a moment of the machine."""
    kind: Kind
    lane: int
    at_s: float
    """When it ended, by the machine's clock."""
    time_s: float
    """From the end of the step before, if that left work; else its own time and a usual gap."""
    prompt_tokens: int
    requests: int
    """That decode."""
    draft_tokens: int
    context_tokens: int
    attention_tokens: float
    """As A in `StepModel`."""

    @property
    def verified(self) -> int:
        """V: tokens that its decoding requests verify."""
        return self.requests + self.draft_tokens

    @property
    def began_s(self) -> float:
        return self.at_s - self.time_s


@dataclass(frozen=True, slots=True)
class Hop:
    """A request given to an idle lane, up to its first token. step_s: time of the step that made it."""

    dispatched_s: float
    at_s: float
    """When the engine had the token."""
    received_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Handover:
    """A decode hop whose prompt's KV is fetched from another lane."""

    tokens: int
    hop: Hop


@dataclass(frozen=True, slots=True)
class DraftStep:
    """One step of a request: the kinds of its whole draft, none if it had none, and how much of it was right."""

    kinds: Sequence[int]
    right: int


@dataclass(frozen=True, slots=True)
class DraftLog:
    """All steps of one request."""

    workload: str
    steps: Sequence[DraftStep]


class Logs(msgspec.Struct):
    """Everything that was measured of one kind of lane."""

    steps: list[Step] = []
    hops: list[Hop] = []
    handovers: list[Handover] = []
    drafts: list[DraftLog] = []
