"""Plans: exactly what an open-loop run sends and when, so that every system is given the same."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from streamserve.errors import ConfigError
from streamserve.types import NO_SLO, Slo
from streamserve.workload.prompts import Prompt

Encode = Callable[[Prompt], Sequence[int]]
"""A prompt's tokens, chat template included."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One request to come."""

    arrival_s: float
    """From the start of the run."""
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    workload: str
    slo: Slo = NO_SLO
    output_tokens: int | None = None
    """Simulated runs: tokens after which it stops by itself; None = at `max_tokens`, as live runs always do."""


Plan = tuple[Planned, ...]
"""In order of arrival."""


def take(arrivals_s: Iterable[float], n: int) -> list[float]:
    """The first `n` arrivals. Raises `ConfigError` when there are not so many."""
    times_s = list(islice(arrivals_s, n))
    if len(times_s) < n:
        raise ConfigError(f"arrivals: the trace ends after {len(times_s)} requests, {n} are wanted; start it earlier")
    return times_s


def plan(arrivals_s: Sequence[float], prompts: Sequence[Prompt], encode: Encode, slo: Slo = NO_SLO) -> Plan:
    """The prompts in their order, one at each arrival."""
    return tuple(_planned(at_s, prompt, encode, slo) for at_s, prompt in zip(arrivals_s, prompts, strict=True))


def turns(
    starts_s: Sequence[float],
    conversations: Sequence[Sequence[Prompt]],
    pause_s: float,
    rng: np.random.Generator,
    encode: Encode,
    slo: Slo = NO_SLO,
) -> Plan:
    """Conversations that start at the given times, each turn a pause after the one before.

    pause_s: mean of the pauses, between half and one and a half of which each is drawn. A pause begins when the turn is
    sent, not when it is answered: what arrives must not depend on the system under test.
    """
    planned = []
    for at_s, conversation in zip(starts_s, conversations, strict=True):
        turn_s = at_s
        for prompt in conversation:
            planned.append(_planned(turn_s, prompt, encode, slo))
            turn_s += pause_s * float(rng.uniform(0.5, 1.5))
    return tuple(sorted(planned, key=lambda each: each.arrival_s))


def _planned(at_s: float, prompt: Prompt, encode: Encode, slo: Slo) -> Planned:
    return Planned(at_s, tuple(encode(prompt)), prompt.max_tokens, prompt.workload, slo)
