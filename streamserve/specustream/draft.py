"""A draft: what may come next, and what kind of guess each of its tokens is."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens; kinds[i] says how token i was found, so that the acceptance of each kind can be learned."""

    tokens: Sequence[int]
    kinds: Sequence[int]


NO_DRAFT = Draft((), ())


def by_position(tokens: Sequence[int], positions: int) -> Draft:
    """A draft whose tokens are of the kinds of their positions, the last kind for all after."""
    return Draft(tokens, [min(place, positions - 1) for place in range(len(tokens))])
