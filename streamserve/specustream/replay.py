"""Exact offline replay of depth rules over stored outputs: only the time of a step is a model.

Greedy outputs are fixed by their prompts, and drafts by the text that is known when they are made, so the tokens that
any rule would have had accepted are known without a model:

    python -m streamserve.specustream.replay OUTPUTS.jsonl --batch 1 4 16 --rules off fixed:3 specustream oracle

Each line of OUTPUTS has `workload`, `prompt_token_ids` and `output_token_ids`. A phase is one workload at one batch
size; a rule goes through all phases with what it has learned so far. Rule `oracle` verifies exactly the draft tokens
that are right: a bound for every rule with the same drafts. A shared history makes drafts depend a little on the order
in which requests run, and the time of drafting and deciding counts for nothing here.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

import yaml

from streamserve.signals import DepthControl, DepthMode, StepCost
from streamserve.specustream.history import HistoryDrafter
from streamserve.specustream.ngram import NgramDrafts
from streamserve.specustream.playback import Drafter, Output, Tally, loaded, replay
from streamserve.specustream.specustream import SpecuStream

_TOKENS = (1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 240)
_SECONDS = (0.040, 0.044, 0.046, 0.048, 0.053, 0.060, 0.070, 0.084, 0.096, 0.118, 0.145, 0.187, 0.225)
ONE_CORE = StepCost(tuple(zip(_TOKENS, _SECONDS, strict=True)))
"""As measured on a lane of one AVX core and a model of 135M parameters."""
HISTORY_TOKENS = 32768
ORACLE = "oracle"

Phase = tuple[str, int]
"""A workload and a batch size."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all rules share. drafter: makes one without history. noise: sigma of a step's time, log-normal."""

    drafter: Callable[[], Drafter]
    cost: StepCost = ONE_CORE
    noise: float = 0.0
    max_depth: int = 8


def parsed_rule(text: str) -> DepthControl:
    """A control from `off`, `fixed:K`, `target_acceptance[:P]` or `specustream[:PRICE]`. Raises `ValueError`."""
    name, _, value = text.partition(":")
    mode = DepthMode(name)
    if mode is DepthMode.FIXED:
        return DepthControl(mode, depth=int(value))
    if mode is DepthMode.TARGET_ACCEPTANCE:
        return DepthControl(mode, target=float(value or 0.5))
    return DepthControl(mode, price=float(value or 1.0))


def compared(
    outputs: Sequence[Output],
    phases: Sequence[Phase],
    rules: Sequence[str],
    setting: Setting,
) -> dict[str, dict[Phase, Tally]]:
    """Each rule through all phases.

    A drafter serves the phases of one batch size until one comes again: it must not see an output twice, since the
    second time its drafts would be perfect.
    """
    tallies: dict[str, dict[Phase, Tally]] = {}
    noise, max_depth = setting.noise, setting.max_depth
    for rule in rules:
        random = Random(0)

        def step_s(tokens: int, random: Random = random) -> float:
            return setting.cost.decode_step_s(tokens) * random.lognormvariate(-noise * noise / 2, noise)

        specustream = None
        if rule != ORACLE:
            specustream = SpecuStream(parsed_rule(rule), max_depth, lambda: 0.0, setting.drafter().guesses())
        drafters: dict[int, Drafter] = {}
        tallies[rule] = {}
        for workload, batch in phases:
            served = [output for output in outputs if output.workload == workload]
            if (workload, batch) in tallies[rule]:
                del drafters[batch]
            drafter = drafters.setdefault(batch, setting.drafter())
            tallies[rule][workload, batch] = replay(served, batch, specustream, drafter, step_s, max_depth)
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
        "--rules", nargs="+", default=["off", "fixed:1", "fixed:3", "fixed:5", "fixed:8", "specustream", ORACLE]
    )
    parser.add_argument("--cost", type=Path, help="YAML or JSON: decode tokens of a step -> its seconds")
    parser.add_argument("--noise", type=float, default=0.0, help="sigma of a step's time, log-normal")
    parser.add_argument("--drafter", choices=["history", "ngram"], default="history")
    parser.add_argument("--lookup", type=int, nargs=2, default=[2, 5], help="ngram: shortest and longest")
    parser.add_argument("--longest", type=int, default=6, help="history: longest piece")
    parser.add_argument("--history", type=int, default=HISTORY_TOKENS, help="history: output tokens remembered")
    parser.add_argument("--max-depth", type=int, default=8)
    options = parser.parse_args(arguments)
    with options.outputs.open() as lines:
        outputs = loaded(lines)
    drafter: Callable[[], Drafter] = partial(HistoryDrafter, options.longest, options.history)
    if options.drafter == "ngram":
        shortest, longest = options.lookup
        drafter = partial(NgramDrafts, shortest, longest, options.max_depth)
    workloads = list(dict.fromkeys(output.workload for output in outputs))
    phases = [(workload, batch) for batch, workload in product(options.batch, workloads)]
    setting = Setting(drafter, _cost(options.cost), options.noise, options.max_depth)
    sys.stdout.write(table(compared(outputs, phases, options.rules, setting)) + "\n")


if __name__ == "__main__":
    main()
