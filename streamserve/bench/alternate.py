"""`python -m streamserve.bench.alternate`: SpecuStream against static depths within one run, a few steps each in turn.

Where a machine's speed drifts, runs one after another (`streamserve.bench.speculation`) compare the machine with
itself. Here a lane decodes one batch and changes its depth control every few steps, so all rules see the same text,
the same batch and nearly the same machine. Per cell, {workload} x {batch}, a rule's rate is its tokens over its steps'
seconds, as the engine measures them, the rule's own time included. The mix weighs all cells by tokens: its rate is the
harmonic mean of theirs. What a lane wrote is forgotten before every cell.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from streamserve import config as configuration
from streamserve.bench import batch, report, rig
from streamserve.bench.batch import Job
from streamserve.bench.figures import spread
from streamserve.bench.speculation import WORKLOADS, control, encode, jobs_of_repeat
from streamserve.lanes.vllm.controls import encoded
from streamserve.protocols import Lane
from streamserve.types import NO_SLO, Request

RULES = ("off", "fixed:1", "fixed:2", "fixed:3", "fixed:5", "fixed:8", "specustream")
SPARE = 6

Rates = Mapping[str, float]
"""Rule -> tokens per second."""
Tallies = Mapping[str, Mapping[str, float]]
"""Rule -> its steps, tokens, seconds and draft tokens."""
Cell = tuple[str, int]
"""Workload and batch size."""


def rates_of(tallies: Tallies) -> Rates:
    """Each rule's tokens over its seconds."""
    return {rule: tally["tokens"] / tally["seconds"] for rule, tally in tallies.items()}


def mix(cells: Sequence[Rates]) -> dict[str, float]:
    """Each rule's rate over a mix of the same number of tokens from every cell."""
    return {rule: len(cells) / sum(1 / cell[rule] for cell in cells) for rule in cells[0]}


def best(repeats: Sequence[Rates], statics: Sequence[str]) -> str:
    """The static rule of the highest median rate, chosen afterwards, and one for all repeats."""
    return max(statics, key=lambda rule: statistics.median(each[rule] for each in repeats))


def text(cells: Mapping[Cell, Sequence[Rates]], rules: Sequence[str]) -> str:
    """The report in Markdown; per cell and rule the ratio to `off`, and of `specustream` to the best static one."""
    statics = [rule for rule in rules if not rule.startswith("specustream")]
    adaptive = [rule for rule in rules if rule.startswith("specustream")]
    repeats = min(len(each) for each in cells.values())
    whole = [mix([each[i] for each in cells.values()]) for i in range(repeats)]
    rows = []
    for name, each in [*((f"{workload} x {size}", each) for (workload, size), each in cells.items()), ("mix", whole)]:
        static = best(each, statics)
        row = [name, f"{statistics.median(rates['off'] for rates in each):.1f}"]
        row += [
            f"{statistics.median(rates[rule] / rates['off'] for rates in each):.2f}" for rule in rules if rule != "off"
        ]
        row.append(static)
        row += [str(spread([rates[rule] / rates[static] for rates in each])) for rule in adaptive]
        rows.append(row)
    header = ["cell", "off, tokens/s", *(f"{rule} / off" for rule in rules if rule != "off"), "best static"]
    return report.table([*header, *(f"{rule} / best static" for rule in adaptive)], rows)


async def cell(lane: Lane, jobs: Sequence[Job], options: Any, name: str) -> Tallies:
    """One batch under all rules in turn."""
    await rig.idle({lane.id: lane})
    await rig.call(lane, "streamserve_forget_history")
    controls = [encoded(control(rule)) for rule in options.rules]
    await rig.call(lane, "streamserve_alternate", controls, options.turn, len(jobs))
    await batch.run(lane, jobs, name, _request, len(jobs) * options.tokens)
    tallies = await rig.call(lane, "streamserve_tallies")
    await rig.call(lane, "streamserve_alternate", [], options.turn, len(jobs))
    return dict(zip(options.rules, tallies, strict=True))


async def measure(
    lane: Lane, prompts: Mapping[str, Sequence[tuple[int, ...]]], options: Any
) -> dict[Cell, list[Rates]]:
    """All cells, repeat by repeat, each with the next prompts."""
    cells: dict[Cell, list[Tallies]] = defaultdict(list)
    progress = report.Progress(options.repeats * len(options.workloads) * len(options.batches))
    for repeat in range(options.repeats):
        prepared = jobs_of_repeat(prompts, max(options.batches), repeat)
        for workload in options.workloads:
            for size in sorted(options.batches):
                jobs = [Job(job.prompt_token_ids, SPARE * options.tokens) for job in prepared[workload][:size]]
                tallies = await cell(lane, jobs, options, f"{workload}-{size}-{repeat}")
                cells[workload, size].append(tallies)
                progress.step(f"repeat {repeat + 1}, {workload} x {size}")
        kept = [{"cell": key, "repeats": value} for key, value in cells.items()]
        report.write(options.out / "alternate.json", kept)
    return {key: [rates_of(each) for each in repeats] for key, repeats in cells.items()}


def _request(name: str, job: Job) -> Request:
    return rig.greedy(name, job.prompt_token_ids, job.max_tokens, 0.0, NO_SLO)


async def main(options: Any) -> None:
    config = configuration.load("unified", ["lanes.0.cores=1", *options.set])
    async with rig.live({"lane": config}, lambda lane, stage: print(f"{lane}: {stage}", flush=True)) as ready:
        (lane,) = ready.sets["lane"].lanes.values()
        cells = await measure(lane, encode(options.prompts, options, ready.tokenizer.encode), options)
        cost = await rig.call(lane, "streamserve_rule_cost")
    share = 100 * cost["rule_s"] / cost["step_s"]
    told = f"{text(cells, options.rules)}\n\nDrafting and deciding took {share:.2f} % of {cost['steps']} steps' time.\n"
    (options.out / "report.md").write_text(told)
    print(told)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="folder of JSONL prompt sets")
    parser.add_argument("--out", type=Path, default=Path("bench-alternate"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--turn", type=int, default=4, help="steps of a rule's turn")
    parser.add_argument("--tokens", type=int, default=110, help="output tokens of a request, on average")
    parser.add_argument("--longest-prompt", type=int, default=800, help="tokens")
    parser.add_argument("--through", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="override of the lane's configuration, key=value")
    return parser


if __name__ == "__main__":
    uvloop.run(main(arguments().parse_args()))
