"""What belongs to the HTTP request at hand: the decisions taken for it, and what its headers ask for.

Set where headers are read, used where requests are served, and the other way round.
"""

import json
from collections.abc import Sequence
from contextvars import ContextVar

from streamserve.api.wishes import NO_WISHES, Wishes
from streamserve.scheduler import explain
from streamserve.types import Decision

decisions: ContextVar[list[Decision] | None] = ContextVar("decisions", default=None)
"""Set for each HTTP request by `HeadersMiddleware`; tasks that the request starts share the list."""

wishes: ContextVar[Wishes] = ContextVar("wishes", default=NO_WISHES)
"""Set for each HTTP request by `HeadersMiddleware`."""

MOST_DECISIONS = 4
MOST_CANDIDATES = 4
MOST_BYTES = 4000
"""Of an explanation: servers and proxies commonly allow 8 KiB for all headers together."""


def record(decision: Decision) -> None:
    """Note a decision taken for the current HTTP request; does nothing outside of one."""
    noted = decisions.get()
    if noted is not None:
        noted.append(decision)


def explained(noted: Sequence[Decision]) -> bytes:
    """The first few decisions as a JSON array in plain ASCII, with as many candidates as fit into a header."""
    shown = noted[:MOST_DECISIONS]
    for candidates in range(MOST_CANDIDATES, -1, -1):
        text = _json([explain.decision(decision, candidates) for decision in shown])
        if len(text) <= MOST_BYTES:
            return text
    # A router of the user's own may have much to say.
    names = [{"router": each.router[:99], "prefill": each.prefill, "decode": each.decode} for each in shown]
    return _json(names)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
