"""Which decisions were taken for the HTTP request at hand: written where it is served, read where headers are."""

from contextvars import ContextVar

from streamserve.types import Decision

decisions: ContextVar[list[Decision] | None] = ContextVar("decisions", default=None)
"""Set for each HTTP request by `HeadersMiddleware`; tasks that the request starts share the list."""


def record(decision: Decision) -> None:
    """Note a decision taken for the current HTTP request; does nothing outside of one."""
    noted = decisions.get()
    if noted is not None:
        noted.append(decision)
