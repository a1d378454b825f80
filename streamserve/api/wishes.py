"""What a client asks for in headers: priority, latencies, the most draft tokens, and an explanation."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from streamserve.types import NO_SLO, Slo

PRIORITY = "x-streamserve-priority"
TTFT = "x-streamserve-ttft-slo-ms"
TPOT = "x-streamserve-tpot-slo-ms"
MAX_DEPTH = "x-streamserve-max-depth"
DECISION = "x-streamserve-decision"

ALIASES = {"x-llm-d-slo-ttft-ms": TTFT, "x-llm-d-slo-tpot-ms": TPOT}
"""llm-d's names for the same; our own win where both are sent."""
CLASSES = {"interactive": -10, "default": 0, "batch": 10}
"""Priority classes; as in vLLM the smaller number goes first, and there is space between them."""
MOST_PRIORITY = 2**31 - 1

_INTEGER = re.compile(r"[+-]?[0-9]{1,10}")
_SWITCH = {"1": True, "true": True, "0": False, "false": False}


class BadWish(ValueError):
    """A header says something that cannot be meant; the message names it and what it may say."""

    def __init__(self, name: str, value: str, allowed: str) -> None:
        super().__init__(f"header {name}: {value!r} is not {allowed}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Wishes:
    """The headers of one HTTP request, read; None = not sent."""

    priority: int | None = None
    slo: Slo = NO_SLO
    max_depth: int | None = None
    explain: bool = False
    """Whether the response is to say why its lanes were chosen."""


NO_WISHES = Wishes()


def read(headers: Iterable[tuple[bytes, bytes]]) -> Wishes:
    """The wishes in an ASGI request's headers, whose names are in lower case. Raises `BadWish`."""
    sent: dict[str, tuple[str, str]] = {}
    for raw_name, raw_value in headers:
        if raw_name.startswith((b"x-streamserve-", b"x-llm-d-slo-")):
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1").strip()
            if name not in ALIASES:
                sent[name] = name, value
            else:
                sent.setdefault(ALIASES[name], (name, value))
    if not sent:
        return NO_WISHES
    return Wishes(
        priority=_priority(*sent[PRIORITY]) if PRIORITY in sent else None,
        slo=Slo(
            ttft_s=_seconds(*sent[TTFT]) if TTFT in sent else None,
            tpot_s=_seconds(*sent[TPOT]) if TPOT in sent else None,
        ),
        max_depth=_depth(*sent[MAX_DEPTH]) if MAX_DEPTH in sent else None,
        explain=_switch(*sent[DECISION]) if DECISION in sent else False,
    )


def _priority(name: str, value: str) -> int:
    if (known := CLASSES.get(value.lower())) is not None:
        return known
    if _INTEGER.fullmatch(value) and abs(int(value)) <= MOST_PRIORITY:
        return int(value)
    raise BadWish(name, value, f"one of {', '.join(CLASSES)} or an integer (smaller goes first)")


def _seconds(name: str, value: str) -> float:
    try:
        # In seconds, since a number of milliseconds above 0 may be none of seconds.
        seconds = float(value) / 1000
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise BadWish(name, value, "a number of milliseconds above 0")
    return seconds


def _depth(name: str, value: str) -> int:
    if _INTEGER.fullmatch(value) and int(value) >= 0:
        return int(value)
    raise BadWish(name, value, "a number of draft tokens, an integer of at least 0")


def _switch(name: str, value: str) -> bool:
    if value.lower() not in _SWITCH:
        raise BadWish(name, value, "1 or 0")
    return _SWITCH[value.lower()]
