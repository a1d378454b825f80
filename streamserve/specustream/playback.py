"""One depth rule over stored outputs: the steps that a lane would have taken, and their time by a model."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streamserve.specustream.draft import Draft
from streamserve.specustream.specustream import RunningDraft, SpecuStream

Cost = Callable[[int], float]
"""Seconds of a step by the tokens that it verifies."""


@dataclass(frozen=True, slots=True)
class Output:
    """One stored output and the prompt that it answers."""

    workload: str
    prompt: Sequence[int] = field(repr=False)
    tokens: Sequence[int] = field(repr=False)


class Drafter(Protocol):
    """As `HistoryDrafter`: asked once per step and running request."""

    def guesses(self) -> Sequence[float] | None: ...

    def draft(self, request_id: str, tokens: Sequence[int], prompt_tokens: int, depth: int) -> Draft: ...

    def forget(self, request_id: str) -> None: ...


@dataclass(slots=True)
class _Running:
    """A request on its way: its prompt and all output so far, and how much output is left."""

    output: Output
    text: list[int]

    @property
    def left(self) -> Sequence[int]:
        return self.output.tokens[len(self.text) - len(self.output.prompt) :]


@dataclass(slots=True)
class Tally:
    """What one rule did in one phase."""

    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    draft_tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def loaded(lines: Iterable[str]) -> list[Output]:
    """Stored outputs."""
    records = map(json.loads, lines)
    return [Output(each["workload"], each["prompt_token_ids"], each["output_token_ids"]) for each in records]


def replay(
    outputs: Sequence[Output],
    batch: int,
    specustream: SpecuStream | None,
    drafter: Drafter,
    step_s: Cost,
    max_depth: int = 8,
) -> Tally:
    """Run outputs to their ends, `batch` at once; the prefill that gives each its first token takes no time.

    specustream: None = the oracle.
    """
    tally = Tally()
    queue = [(f"{place}", output) for place, output in enumerate(outputs) if len(output.tokens) > 1]
    queue.reverse()
    running: dict[str, _Running] = {}
    while queue or running:
        while queue and len(running) < batch:
            request_id, output = queue.pop()
            running[request_id] = _Running(output, [*output.prompt, output.tokens[0]])
        drafts = _drafted(running, drafter, max_depth)
        decoding = len(running)
        if specustream is None:
            depths = {each: _right(drafts[each].draft, running[each].left, max_depth) for each in drafts}
        else:
            depths = dict(specustream.decide(drafts, decoding, 0, 0.0, preempted=False))
        draft_tokens = sum(depths.values())
        seconds = step_s(decoding + draft_tokens)
        for request_id, request in list(running.items()):
            right = _right(drafts[request_id].draft, request.left, depths[request_id]) if request_id in drafts else 0
            gained = request.left[: right + 1]
            request.text += gained
            tally.tokens += len(gained)
            if specustream is not None:
                specustream.observe(request_id, gained)
            if not request.left:
                del running[request_id]
                drafter.forget(request_id)
                if specustream is not None:
                    specustream.forget(request_id)
        if specustream is not None:
            specustream.step(seconds, 0, decoding + draft_tokens, draft_tokens)
        tally.seconds += seconds
        tally.steps += 1
        tally.draft_tokens += draft_tokens
    return tally


def _drafted(running: Mapping[str, _Running], drafter: Drafter, max_depth: int) -> dict[str, RunningDraft]:
    """Drafts of the requests for which there is one, no longer than can count: each step gains a token of its own."""
    drafts = {}
    for request_id, request in running.items():
        depth = min(max_depth, len(request.left) - 1)
        draft = drafter.draft(request_id, request.text, len(request.output.prompt), depth)
        if draft.tokens:
            drafts[request_id] = RunningDraft(draft, depth)
    return drafts


def right_tokens(drafted: Sequence[int], following: Sequence[int]) -> int:
    """How many tokens of a draft are those that follow, up to the first that is not."""
    for place, (token, true) in enumerate(zip(drafted, following, strict=False)):
        if token != true:
            return place
    return min(len(drafted), len(following))


def _right(draft: Draft, output: Sequence[int], depth: int) -> int:
    return right_tokens(draft.tokens[:depth], output)
