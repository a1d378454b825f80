"""The last guard: speculation that does not pay, for whatever reason, is suspended for a while."""

WINDOW_STEPS = 64
SUSPENDED_STEPS = 64
LEAST_RATIO = 0.98
"""Measured goodput with drafts over the estimate without, below which speculation is suspended."""
PAUSE_RATIO = 5.0
"""A step this many times longer than one without drafts was paused by the machine and says nothing."""


class GoodputGuard:
    """Compares the goodput of steps with drafts to what the same steps are thought to yield without."""

    def __init__(self) -> None:
        self.fallbacks = 0
        """Times that speculation was suspended."""
        self._suspended = 0
        self._clear()

    @property
    def suspended(self) -> bool:
        """Whether the next step goes without drafts."""
        return self._suspended > 0

    def observe(self, plain_tokens: int, gained_tokens: int, plain_s: float, step_s: float, drafted: bool) -> None:
        """One step: its tokens without drafts and in truth, its seconds without (an estimate) and in truth."""
        if self._suspended:
            self._suspended -= 1
            return
        if not drafted or step_s > PAUSE_RATIO * plain_s * gained_tokens / plain_tokens:
            return
        self._steps += 1
        self._plain_tokens += plain_tokens
        self._gained_tokens += gained_tokens
        self._plain_s += plain_s
        self._step_s += step_s
        if self._steps < WINDOW_STEPS:
            return
        if self._gained_tokens * self._plain_s < LEAST_RATIO * self._plain_tokens * self._step_s:
            self._suspended = SUSPENDED_STEPS
            self.fallbacks += 1
        self._clear()

    def _clear(self) -> None:
        self._steps = self._plain_tokens = self._gained_tokens = 0
        self._plain_s = self._step_s = 0.0
