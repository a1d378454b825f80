"""Recorded answers: the drafts that real ones gave, for simulated requests to have.

Requests differ in how well they can be drafted for, persistently and more than drafts drawn one by one would.
"""

from collections.abc import Sequence

from streamserve.lanes.sim.work import Found

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
NO_DRAFT = "--"
GOLDEN = 0x9E3779B97F4A7C15
"""2 ** 64 over the golden ratio: its multiples fall evenly among any number of answers (Fibonacci hashing)."""


def packed(found: Sequence[Found | None]) -> str:
    """Two letters per output token: class of the draft that was made behind it, and how many tokens of it were right.

    found: as in `SimWork`, whose first entry stands before any token and is left out.
    """
    return "".join(NO_DRAFT if each is None else DIGITS[each[0]] + DIGITS[each[1]] for each in found[1:])


def unpacked(text: str) -> list[Found | None]:
    """What was packed. Raises `ValueError` on any other text."""
    pairs = [text[place : place + 2] for place in range(0, len(text), 2)]
    return [None, *(None if pair == NO_DRAFT else _found(pair) for pair in pairs)]


def _found(pair: str) -> Found:
    if len(pair) != 2:
        raise ValueError(f"{pair!r} is not a class and a number of right tokens")
    return DIGITS.index(pair[0]), DIGITS.index(pair[1])


class Answers:
    """The recorded answers of one workload; at least one."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._answers = [unpacked(text) for text in texts]

    def one(self, seed: int, tokens: int) -> list[Found | None]:
        """The seed's answer, so many tokens long: a recorded one whose second half goes on and on."""
        answer = self._answers[(seed * GOLDEN % 2**64) * len(self._answers) >> 64]
        rest = answer[(len(answer) + 1) // 2 :] or [None]
        return (answer + rest * (1 + max(0, tokens - len(answer)) // len(rest)))[: max(1, tokens)]
