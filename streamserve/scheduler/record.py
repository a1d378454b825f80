"""The record of a request while it is served."""

from streamserve.errors import LaneLost
from streamserve.types import Chunk, Decision, Finish, LaneId, Request, Result


class Record:
    """What has happened to one request so far.

    due_s: its instant on the time line of our queue.
    """

    def __init__(self, request: Request, due_s: float = 0.0) -> None:
        self.request = request
        self.due_s = due_s
        self.placed = False
        """Whether it holds one of the places on the lanes."""
        self.attempts = 0
        self.failed: set[LaneId] = set()
        """Lanes that an earlier attempt was lost with."""
        self.started = False
        """Whether the client may have seen output, so that another attempt must continue it."""
        self.output_tokens = 0
        self.sent: list[int] = []
        """The output so far, of a request that another lane can continue."""
        self._decision: Decision | None = None
        self._dispatched_s: float | None = None
        self._first_token_s: float | None = None
        self._last_s = 0.0
        self._finish: Finish | None = None
        self._finished_s = 0.0

    def decided(self, decision: Decision, at_s: float) -> None:
        """Another attempt begins."""
        self.attempts += 1
        self._decision = decision
        self._dispatched_s = at_s

    def add(self, chunk: Chunk) -> None:
        """Count a chunk that is about to be sent."""
        self.started = True
        tokens = len(chunk.token_ids)
        if tokens and self._first_token_s is None:
            self._first_token_s = chunk.at_s
        self._last_s = chunk.at_s
        self.output_tokens += tokens
        if self.request.continuable:
            self.sent.extend(chunk.token_ids)
        if chunk.finish is not None:
            self._finish = chunk.finish
            self._finished_s = chunk.at_s

    def stopped(self) -> None:
        """Its output so far is all that was asked for; does nothing when its lane has finished it."""
        if self._finish is None:
            self._finish, self._finished_s = Finish.STOP, self._last_s

    def result(self, ended_s: float, error: BaseException | None) -> Result:
        """The final record; without a finish from the lane an error counts as `ERROR`, anything else as `ABORT`."""
        failed = isinstance(error, Exception)
        finish = self._finish or (Finish.ERROR if failed else Finish.ABORT)
        return Result(
            request_id=self.request.id,
            decision=self._decision,
            prompt_tokens=self.request.prompt_tokens,
            output_tokens=self.output_tokens,
            arrived_s=self.request.arrived_s,
            finished_s=self._finished_s if self._finish else ended_s,
            finish=finish,
            first_token_s=self._first_token_s,
            attempts=self.attempts,
            error=(str(error) or type(error).__name__) if failed else None,
            slo=self.request.slo,
            priority=self.request.priority,
            dispatched_s=self._dispatched_s,
            # An engine that ends a request with an error raises none.
            lane_failed=finish is Finish.ERROR and (error is None or isinstance(error, LaneLost)),
        )
