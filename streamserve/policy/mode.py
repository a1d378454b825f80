"""Mode: how much a policy has to say."""

import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum

from streamserve.errors import ConfigError

WAYS = "learned, shadow, canary:SHARE (e.g. canary:0.1) or heuristic"


class Way(StrEnum):
    """Who decides."""

    HEURISTIC = "heuristic"
    SHADOW = "shadow"
    """The heuristic; what the policy would have done is told."""
    CANARY = "canary"
    """The policy for a share of the requests, and both are compared."""
    LEARNED = "learned"


@dataclass(frozen=True, slots=True)
class Mode:
    """A way, with the share of the requests that a canary gets."""

    way: Way
    share: float = 1.0

    def __str__(self) -> str:
        return f"{self.way}:{self.share:g}" if self.way is Way.CANARY else str(self.way)

    def tries(self, request_id: str) -> bool:
        """Whether the policy decides for this request; the same for each of its attempts."""
        if self.way is not Way.CANARY:
            return self.way is Way.LEARNED
        digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.share * 2**64


def parse(text: str) -> Mode:
    """A mode from a configuration or a request. Raises `ConfigError`."""
    name, colon, argument = text.partition(":")
    try:
        way = Way(name)
    except ValueError:
        raise ConfigError(f"policy mode {text!r}: write {WAYS}") from None
    if way is not Way.CANARY:
        if colon:
            raise ConfigError(f"policy mode {text!r}: {name} takes no share; write {WAYS}")
        return Mode(way)
    try:
        share = float(argument)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ConfigError(f"policy mode {text!r}: the share must be above 0 and below 1, e.g. canary:0.1")
    return Mode(way, share)


def split(text: str) -> tuple[str, str | None]:
    """``POLICY[,MODE]`` as its parts. Raises `ConfigError` on a mode that cannot be."""
    source, comma, mode = text.rpartition(",")
    if not comma:
        return text, None
    parse(mode)
    return source, mode
