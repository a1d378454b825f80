"""Exact offline replay of depth rules over stored outputs: only the time of a step is a model.

Greedy outputs are fixed by their prompts and n-gram drafts by the tokens before them, so the tokens that any rule would
have had accepted are known without a model:

    python -m streamserve.specustream.replay OUTPUTS.jsonl --batch 1 4 16 --rules off fixed:3 specustream

Each line of OUTPUTS has `workload`, `prompt_token_ids` and `output_token_ids`. A phase is one workload at one batch
size; a rule goes through all phases with what it has learned so far.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random

import yaml

from streamserve.signals import DepthControl, DepthMode, StepCost
from streamserve.specustream.ngram import NgramDrafter
from streamserve.specustream.specustream import RunningDraft, SpecuStream

ONE_CORE = StepCost(((1, 0.033), (4, 0.040), (8, 0.050), (16, 0.075), (32, 0.125), (64, 0.230)))
"""A lane of one AVX core and a model of 135M parameters."""

Phase = tuple[str, int]
"""A workload and a batch size."""


@dataclass(frozen=True, slots=True)
class Output:
    """One stored output; drafts[i] is what is drafted when its first i tokens are known."""

    workload: str
    tokens: Sequence[int]
    drafts: Sequence[Sequence[int]] = field(repr=False)


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


def parsed_rule(text: str) -> DepthControl:
    """A control from `off`, `fixed:K`, `target_acceptance[:P]` or `specustream[:PRICE]`. Raises `ValueError`."""
    name, _, value = text.partition(":")
    mode = DepthMode(name)
    if mode is DepthMode.FIXED:
        return DepthControl(mode, depth=int(value))
    if mode is DepthMode.TARGET_ACCEPTANCE:
        return DepthControl(mode, target=float(value or 0.5))
    return DepthControl(mode, price=float(value or 1.0))


def loaded(lines: Iterable[str], lookup_tokens: tuple[int, int], max_depth: int) -> list[Output]:
    """Stored outputs with the drafts at each of their tokens."""
    outputs = []
    for line in lines:
        record = json.loads(line)
        drafter = NgramDrafter(*lookup_tokens, record["prompt_token_ids"])
        tokens = record["output_token_ids"]
        drafts: list[Sequence[int]] = [()]
        for token in tokens:
            drafter.extend((token,))
            drafts.append(drafter.propose(max_depth))
        outputs.append(Output(record["workload"], tokens, drafts))
    return outputs


def replay(outputs: Sequence[Output], batch: int, specustream: SpecuStream, step_s: Callable[[int], float]) -> Tally:
    """Run outputs to their ends, `batch` at once; the prefill that gives each its first token takes no time."""
    tally = Tally()
    queue = [(f"{place}", output) for place, output in enumerate(outputs) if len(output.tokens) > 1]
    queue.reverse()
    running: dict[str, tuple[Output, int]] = {}
    while queue or running:
        while queue and len(running) < batch:
            request_id, output = queue.pop()
            running[request_id] = (output, 1)
        drafts = {
            request_id: RunningDraft(output.drafts[known], len(output.tokens) - known - 1)
            for request_id, (output, known) in running.items()
            if output.drafts[known]
        }
        decoding = len(running)
        depths = specustream.decide(drafts, decoding, 0, 0.0, preempted=False)
        draft_tokens = sum(depths.values())
        seconds = step_s(decoding + draft_tokens)
        for request_id, (output, known) in list(running.items()):
            gained = _gained(output, known, depths.get(request_id, 0))
            specustream.observe(request_id, gained)
            running[request_id] = (output, known + len(gained))
            tally.tokens += len(gained)
            if known + len(gained) == len(output.tokens):
                del running[request_id]
                specustream.forget(request_id)
        specustream.step(seconds, 0, decoding + draft_tokens, draft_tokens)
        tally.seconds += seconds
        tally.steps += 1
        tally.draft_tokens += draft_tokens
    return tally


def compared(
    outputs: Sequence[Output],
    phases: Sequence[Phase],
    rules: Sequence[str],
    cost: StepCost,
    noise: float = 0.0,
    max_depth: int = 8,
) -> dict[str, dict[Phase, Tally]]:
    """Each rule through all phases; noise: sigma of a step's time, log-normal."""
    tallies: dict[str, dict[Phase, Tally]] = {}
    for rule in rules:
        random = Random(0)

        def step_s(tokens: int, random: Random = random) -> float:
            return cost.decode_step_s(tokens) * random.lognormvariate(-noise * noise / 2, noise)

        specustream = SpecuStream(parsed_rule(rule), max_depth, lambda: 0.0)
        tallies[rule] = {
            (workload, batch): replay(
                [output for output in outputs if output.workload == workload], batch, specustream, step_s
            )
            for workload, batch in phases
        }
    return tallies


def overall(phases: Mapping[Phase, Tally]) -> float:
    """Tokens per second over all phases together."""
    return sum(tally.tokens for tally in phases.values()) / sum(tally.seconds for tally in phases.values())


def table(tallies: Mapping[str, Mapping[Phase, Tally]]) -> str:
    """Tokens/s of each rule and phase, and in brackets the ratio to the best static depth there."""
    rules = list(tallies)
    phases = list(tallies[rules[0]])
    rows = [["phase", "batch", *rules]]
    for phase in phases:
        rows.append([phase[0], str(phase[1]), *_cells({rule: tallies[rule][phase].tokens_per_s for rule in rules})])
    rows.append(["all", "", *_cells({rule: overall(tallies[rule]) for rule in rules})])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _cells(tokens_per_s: Mapping[str, float]) -> list[str]:
    static = [value for rule, value in tokens_per_s.items() if rule.startswith(("off", "fixed"))]
    best = max(static or tokens_per_s.values())
    return [f"{value:.1f} ({value / best:.3f})" for value in tokens_per_s.values()]


def _gained(output: Output, known: int, depth: int) -> Sequence[int]:
    draft = output.drafts[known]
    accepted = 0
    while accepted < depth and draft[accepted] == output.tokens[known + accepted]:
        accepted += 1
    return output.tokens[known : known + accepted + 1]


def _cost(path: Path | None) -> StepCost:
    if path is None:
        return ONE_CORE
    knots = yaml.safe_load(path.read_text())
    return StepCost(tuple(sorted((int(tokens), float(seconds)) for tokens, seconds in knots.items())))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Replay depth rules over stored greedy outputs.")
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument(
        "--rules", nargs="+", default=["off", "fixed:1", "fixed:3", "fixed:5", "fixed:8", "specustream"]
    )
    parser.add_argument("--cost", type=Path, help="YAML or JSON: decode tokens of a step -> its seconds")
    parser.add_argument("--noise", type=float, default=0.0, help="sigma of a step's time, log-normal")
    parser.add_argument("--lookup", type=int, nargs=2, default=[2, 5], help="shortest and longest n-gram")
    parser.add_argument("--max-depth", type=int, default=8)
    options = parser.parse_args(arguments)
    shortest, longest = options.lookup
    with options.outputs.open() as lines:
        outputs = loaded(lines, (shortest, longest), options.max_depth)
    workloads = list(dict.fromkeys(output.workload for output in outputs))
    phases = list(product(workloads, options.batch))
    tallies = compared(outputs, phases, options.rules, _cost(options.cost), options.noise, options.max_depth)
    sys.stdout.write(table(tallies) + "\n")


if __name__ == "__main__":
    main()
