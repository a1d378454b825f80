"""Classes of drafts from stored greedy outputs: exact, since what a draft has right is known without an engine."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import DraftClass
from streamserve.lanes.sim.fit_logs import DraftLog, DraftStep
from streamserve.specustream.playback import Drafter, Output, right_tokens

MIX = "mix"
"""The key of all workloads together."""
CLASSES = 4
KIND_WEIGHT = 4.0
"""Steps that a kind's acceptance is held to that of all kinds by."""
POSITION_WEIGHT = 4.0
"""Steps that a workload's acceptance at a position is held to that of all workloads by."""
WORTH = 0.15
"""A draft token is worth verifying if it and all before it are right with this probability: so at middling load."""
ROUNDS = 50
MOST_STAY = 0.99

Rates = Mapping[int, float]
"""Acceptance of each kind of draft token."""
Classed = Sequence[tuple[int | None, DraftStep]]
"""The steps of one request, each with the class of its draft."""


def played(lots: Sequence[Sequence[Output]], new_drafter: Callable[[], Drafter], max_depth: int) -> list[DraftLog]:
    """The steps of lanes that verify a draft up to where it becomes unlikely, request after request.

    That is near what SpecuStream does, and it is as deep as drafts are worth it: fixed depths below make more steps of
    the same copied text. Drafts are noted whole. Each lot has a drafter of its own, which knows nothing at first.
    """
    whole = [log for lot in lots for log in played_at(lot, new_drafter(), max_depth, len)]
    rates = kind_rates([step for log in whole for step in log.steps if step.kinds])

    def worth(kinds: Sequence[int]) -> int:
        return int((np.cumprod([rates[kind] for kind in kinds]) >= WORTH).sum())

    return [log for lot in lots for log in played_at(lot, new_drafter(), max_depth, worth)]


def played_at(
    outputs: Iterable[Output], drafter: Drafter, max_depth: int, depth: Callable[[Sequence[int]], int]
) -> list[DraftLog]:
    """The steps of a lane that verifies of a draft of these kinds as many tokens as `depth` says.

    The prefill gives each output its first token. A draft is no longer than can count: a step gains a token of its own.
    """
    logs = []
    for place, output in enumerate(outputs):
        text = [*output.prompt, *output.tokens[:1]]
        steps = []
        while left := output.tokens[len(text) - len(output.prompt) :]:
            draft = drafter.draft(f"{place}", text, len(output.prompt), min(max_depth, len(left) - 1))
            right = right_tokens(draft.tokens, left)
            if len(left) > max_depth:
                # The last few drafts are cut short by the end of the output: they would look worse than they are.
                steps.append(DraftStep(tuple(draft.kinds), right))
            text += left[: min(right, depth(draft.kinds)) + 1]
        drafter.forget(f"{place}")
        logs.append(DraftLog(output.workload, steps))
    return logs


def draft_classes(logs: Sequence[DraftLog], max_depth: int) -> dict[str, tuple[DraftClass, ...]]:
    """By workload, and `mix` for all: at most `CLASSES` classes, of the fewest right tokens first.

    A draft's class is a range of the tokens expected right of it, the sum over its positions of the product of their
    kinds' acceptances; the ranges are the same for all workloads. Raises `ConfigError` when there are no drafts.
    """
    drafts = [step for log in logs for step in log.steps if step.kinds]
    if not drafts:
        raise ConfigError("no draft was made: give longer outputs, or prompts whose answers repeat something")
    rates = kind_rates(drafts)
    edges = class_edges(np.array([expected_right(step.kinds, rates) for step in drafts]))
    classed = [(log.workload, [(_class(step, rates, edges), step) for step in log.steps]) for log in logs]
    by_workload: dict[str, list[Classed]] = defaultdict(list)
    for workload, steps in classed:
        by_workload[workload].append(steps)
    every = [steps for _, steps in classed]
    count = len(edges) + 1
    pooled = [_acceptance(every, number, max_depth, None) for number in range(count)]
    classes = {
        workload: _classes(each, [_acceptance(each, number, max_depth, pooled[number]) for number in range(count)])
        for workload, each in sorted(by_workload.items())
    }
    return classes | {MIX: _classes(every, pooled)}


def kind_rates(drafts: Sequence[DraftStep]) -> dict[int, float]:
    """Acceptance of each kind where all tokens before it were right, little known ones near the average."""
    seen: dict[int, int] = defaultdict(int)
    right: dict[int, int] = defaultdict(int)
    for step in drafts:
        for place, kind in enumerate(step.kinds[: step.right + 1]):
            seen[kind] += 1
            right[kind] += place < step.right
    average = sum(right.values()) / max(1, sum(seen.values()))
    known = {kind: (right[kind] + KIND_WEIGHT * average) / (seen[kind] + KIND_WEIGHT) for kind in seen}
    return defaultdict(lambda: average, known)


def expected_right(kinds: Sequence[int], rates: Rates) -> float:
    """Tokens of a draft that are expected right."""
    return float(np.cumprod([rates[kind] for kind in kinds]).sum())


def class_edges(values: NDArray[np.float64], classes: int = CLASSES) -> NDArray[np.float64]:
    """Edges of the ranges into which the values fall best, by Lloyd's algorithm; fewer where values are alike."""
    centres = np.unique(np.quantile(values, (np.arange(classes) + 0.5) / classes))
    for _ in range(ROUNDS):
        edges = (centres[1:] + centres[:-1]) / 2
        of = np.searchsorted(edges, values)
        moved = np.array([values[of == number].mean() for number in range(len(centres)) if (of == number).any()])
        if np.array_equal(moved, centres):
            break
        centres = moved
    return (centres[1:] + centres[:-1]) / 2


def _class(step: DraftStep, rates: Rates, edges: NDArray[np.float64]) -> int | None:
    return int(np.searchsorted(edges, expected_right(step.kinds, rates))) if step.kinds else None


def _acceptance(
    requests: Sequence[Classed], number: int, max_depth: int, toward: Sequence[float] | None
) -> tuple[float, ...]:
    """Per position; a draft that ends before a position counts as wrong there, so that tokens per step are exact."""
    reached, right = np.zeros(max_depth), np.zeros(max_depth)
    for steps in requests:
        for of, step in steps:
            if of == number:
                reached[: step.right + 1] += 1
                right[: step.right] += 1
    pull = np.zeros(max_depth) if toward is None else np.array(toward)
    weight = POSITION_WEIGHT if toward is not None else 0.0
    found = (right + weight * pull) / np.maximum(reached + weight, 1)
    return tuple(round(float(each), 4) for each in found)


def _classes(requests: Sequence[Classed], acceptance: Sequence[tuple[float, ...]]) -> tuple[DraftClass, ...]:
    of = [[each for each, _ in steps] for steps in requests]
    total = max(1, sum(map(len, of)))
    shares = [sum(each.count(number) for each in of) / total for number in range(len(acceptance))]
    parts = zip(shares, acceptance, stays(of, shares), strict=True)
    # Rounded down, so that shares never sum to more than 1.
    return tuple(DraftClass(math.floor(share * 1e4) / 1e4, rates, round(stay, 4)) for share, rates, stay in parts)


def stays(sequences: Sequence[Sequence[int | None]], shares: Sequence[float]) -> list[float]:
    """Per class, how much oftener than by chance the next step has it again: 0 never, 1 always.

    A step keeps the class of the one before with its `stay`, else it draws anew, a class as often as leaves it its
    share of all steps: share * (1 - stay), over the sum of these. So what follows one class depends on all stays.
    """
    again, seen = [0] * len(shares), [0] * len(shares)
    for sequence in sequences:
        for before, after in zip(sequence, sequence[1:], strict=False):
            if before is not None:
                seen[before] += 1
                again[before] += before == after
    repeats = [count / max(1, of) for count, of in zip(again, seen, strict=True)]
    none = 1 - sum(shares)
    found = [0.0] * len(shares)
    for _ in range(ROUNDS):
        fresh = [share * (1 - stay) for share, stay in zip(shares, found, strict=True)]
        whole = max(sum(fresh) + none, 1e-9)
        chances = [min(each / whole, 1 - 1e-9) for each in fresh]
        found = [
            min(MOST_STAY, max(0.0, (repeat - chance) / (1 - chance)))
            for repeat, chance in zip(repeats, chances, strict=True)
        ]
    return found


def tokens_per_step(classes: Sequence[DraftClass], depth: int) -> float:
    """Tokens that a step gains at a depth, by the classes: its own, and those of its draft that are right."""
    return 1 + sum(each.share * float(np.cumprod(each.acceptance[:depth]).sum()) for each in classes)


def played_tokens_per_step(
    lots: Sequence[Sequence[Output]], new_drafter: Callable[[], Drafter], max_depth: int, depth: int
) -> dict[str, float]:
    """The same by workload, by playback of the lots at that depth."""
    steps: dict[str, list[DraftStep]] = defaultdict(list)
    for lot in lots:
        for log in played_at(lot, new_drafter(), max_depth, lambda _: depth):
            steps[log.workload] += log.steps
    return {
        workload: 1 + sum(min(step.right, depth) for step in each) / max(1, len(each))
        for workload, each in sorted(steps.items())
    }
