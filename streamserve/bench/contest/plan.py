"""What is sent: the same prompts and output lengths to every system, none twice to one server if it can be avoided.

A server that has seen a prompt answers it faster the second time: its prefix cache holds the prompt, and a drafter that
remembers answers holds the answer. So prompts are dealt from shuffled decks over all runs of a repeat, and each repeat
starts the systems anew. A prompt that has to come again, because a set is smaller than what is asked of it, gets
a first line of its own, against which no prefix cache helps.
"""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamserve.bench.contest.client import Ask
from streamserve.bench.contest.settings import MIX, Point, Settings, points
from streamserve.errors import ConfigError
from streamserve.workload.prompts import Prompt

LEAST_TOKENS = 2
"""Of an output: a single token has no time per token."""
CAPACITY_SEED = 1_000_000


@dataclass(frozen=True, slots=True)
class Hand:
    """What one run sends."""

    asks: tuple[Ask, ...]
    """In order of arrival."""
    seen: int = 0
    """How many of the prompts this server was sent before, then with another first line."""


Sets = Mapping[str, Sequence[Prompt]]
"""Prompt set -> its prompts."""


class Dealer:
    """Deals prompts to runs: the same in every start of a contest.

    Raises `ConfigError` where a workload is no prompt set.
    """

    def __init__(self, sets: Sets, settings: Settings) -> None:
        unknown = [each for each in settings.workloads if each != MIX and each not in sets]
        if unknown:
            known = ", ".join((*sets, MIX))
            raise ConfigError(
                f"--workloads: there is no {', '.join(unknown)}, these prompts have {known}; others with --prompts DIR "
                "or --hub"
            )
        self._sets = sets
        self._settings = settings

    def repeat(self, repeat: int) -> dict[Point, Hand]:
        """What every run of a repeat sends; where systems stay up, prompts of earlier repeats count as seen."""
        seen: Counter[str] = Counter()
        first = 0 if self._settings.keep else repeat
        for each in range(first, repeat):
            self._deal(each, seen)
        return self._deal(repeat, seen)

    def capacity(self, workload: str, n: int) -> Hand:
        """`n` requests to measure the capacity with."""
        rng = np.random.default_rng([self._settings.seed, CAPACITY_SEED])
        return self._hand(
            workload, n, {name: _Deck(len(each), rng) for name, each in self._sets.items()}, Counter(), rng
        )

    def _deal(self, repeat: int, seen: Counter[str]) -> dict[Point, Hand]:
        rng = np.random.default_rng([self._settings.seed, repeat])
        decks = {name: _Deck(len(prompts), rng) for name, prompts in self._sets.items()}
        hands = {}
        for point in points(self._settings):
            # A server that starts for this run alone has seen nothing.
            before = Counter[str]() if self._settings.apart else seen
            hands[point] = self._hand(point.workload, self._settings.requests, decks, before, rng)
        return hands

    def _hand(
        self, workload: str, n: int, decks: "Mapping[str, _Deck]", seen: Counter[str], rng: np.random.Generator
    ) -> Hand:
        names = list(self._sets) if workload == MIX else [workload]
        picked: list[Prompt] = []
        for place, name in enumerate(names):
            share = n // len(names) + (place < n % len(names))
            picked += [self._sets[name][each] for each in decks[name].deal(share)]
        asks, again = [], 0
        for each in rng.permutation(len(picked)):
            prompt = picked[int(each)]
            times = seen[prompt.id]
            seen[prompt.id] += 1
            again += times > 0
            text = prompt.messages[-1][1]
            asks.append(Ask(f"({times + 1})\n{text}" if times else text, self._tokens(prompt)))
        return Hand(tuple(asks), again)

    def _tokens(self, prompt: Prompt) -> int:
        return max(LEAST_TOKENS, round(prompt.max_tokens * self._settings.length_scale))


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """How many prompts, and a checksum over what is sent of them."""
    text = "\n".join(f"{each.messages} {each.max_tokens}" for each in prompts)
    return f"{len(prompts)} prompts, crc32 {zlib.crc32(text.encode()):08x}"


class _Deck:
    """Places of a prompt set, shuffled anew whenever all were dealt."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size = size
        self._rng = rng
        self._left: list[int] = []

    def deal(self, n: int) -> list[int]:
        while len(self._left) < n:
            self._left += [int(each) for each in self._rng.permutation(self._size)]
        dealt, self._left = self._left[:n], self._left[n:]
        return dealt


def order(labels: Sequence[str], repeat: int, place: int) -> list[str]:
    """The systems in the order of their runs, which rotates from repeat to repeat and from point to point."""
    first = (repeat + place) % len(labels)
    return [*labels[first:], *labels[:first]]
