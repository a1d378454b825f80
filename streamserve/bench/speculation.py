"""`python -m streamserve.bench.speculation`: SpecuStream against every static depth and none, on one one-core lane.

Cells are {workload} x {batch}: a batch of requests decodes under each rule in turn, in an order that
changes with each repeat, and ratios are taken within a repeat. Phases are batches of changing workload and size, one
after another without a pause for the rule to settle: the changing load that no static depth fits.

Rules named ngram:K are static depths of a second lane on the same core, whose drafts are vLLM's n-gram proposer's: what
one has without SpecuStream. Texts that a lane wrote are forgotten before every cell and every run through the phases,
and no prompt comes twice in a run, so nothing is drafted from an earlier run's answer.

Prompts are prefilled beforehand and lie in the prefix cache, so that what a run computes before it decodes is the rest
of each prompt's last block, the same under every rule. `streamserve.bench.batch` defines the rates: a cell is how fast
the whole batch decodes so many tokens in all; phases have requests of one length and are judged by all steps until
their last request ends. Outputs are greedy, so every rule makes the same text (up to ties that rounding decides).

`--store FILE` instead writes greedy outputs for the offline replay of rules.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from streamserve import config as configuration
from streamserve.bench import batch, report, rig, verdict
from streamserve.bench.batch import Job, Rate
from streamserve.bench.steady import steady
from streamserve.protocols import Lane
from streamserve.signals import DepthControl, DepthMode
from streamserve.types import NO_SLO, Request
from streamserve.workload import prompts

WORKLOADS = ("alpaca", "gsm8k", "humaneval", "sum")
RULES = ("off", "fixed:1", "fixed:2", "fixed:3", "fixed:5", "fixed:8", "specustream")
CELL_TOKENS = {1: 40, 4: 28, 8: 24, 16: 24}
"""Batch size -> tokens per request, on average."""
PHASES = ("sum:1:64", "alpaca:16:28", "gsm8k:4:32", "sum:8:28", "humaneval:1:48", "alpaca:8:28")
CONTROL_S = 600.0
NGRAM = "ngram"
"""Rules of this name are static depths of a lane whose drafts are vLLM's own."""
SPARE = 4
"""How many times its share of a cell's tokens a request may make before the batch is full no more."""


@dataclass(frozen=True, slots=True)
class Phase:
    """So many requests of a workload at once, each of so many output tokens."""

    workload: str
    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.workload} x {self.batch}"


@dataclass(frozen=True, slots=True)
class Measured:
    """One phase or cell under one rule in one repeat."""

    kind: str
    place: int
    phase: Phase
    rule: str
    repeat: int
    rate: Rate
    gap_s: float


Jobs = Mapping[str, Sequence[Job]]
"""Workload -> its jobs, of which every batch takes the first."""


def control(rule: str) -> DepthControl:
    """A rule as a depth control: off, fixed:K, ngram:K, target_acceptance:P, specustream or specustream:PRICE."""
    mode, _, number = rule.partition(":")
    if mode == NGRAM:
        mode = DepthMode.FIXED
    match DepthMode(mode):
        case DepthMode.FIXED:
            return DepthControl(DepthMode.FIXED, depth=int(number))
        case DepthMode.TARGET_ACCEPTANCE:
            return DepthControl(DepthMode.TARGET_ACCEPTANCE, target=float(number or 0.5))
        case DepthMode.SPECUSTREAM:
            return DepthControl(DepthMode.SPECUSTREAM, price=float(number or 1.0))
        case DepthMode.OFF:
            return DepthControl(DepthMode.OFF)


def phase(text: str) -> Phase:
    """WORKLOAD:BATCH:TOKENS."""
    workload, size, tokens = text.split(":")
    return Phase(workload, int(size), int(tokens))


def rules_of_repeat(rules: Sequence[str], repeat: int, static_repeats: int, seed: int) -> list[str]:
    """The rules to run in a repeat, in its order; static depths above 0 only in the first `static_repeats`."""
    chosen = [rule for rule in rules if repeat < static_repeats or not rule.startswith("fixed:")]
    random.Random(f"{seed}/{repeat}").shuffle(chosen)
    return chosen


def jobs_of_repeat(encoded: Mapping[str, Sequence[tuple[int, ...]]], size: int, repeat: int) -> Jobs:
    """The next `size` prompts of every workload, so that repeats differ; from the start again where they run out."""
    return {
        workload: [Job(each[(repeat * size + i) % len(each)], 1) for i in range(size)]
        for workload, each in encoded.items()
    }


class Bench:
    """A lane under measurement, and one with vLLM's own drafts beside it where there are rules for one."""

    def __init__(
        self,
        lane: Lane,
        make: Callable[[str, Job], Request],
        note: Callable[[str], None],
        ngram_lane: Lane | None = None,
    ) -> None:
        self._lane = lane
        self._ngram_lane = ngram_lane
        self._make = make
        self._note = note
        self._runs = 0

    async def outputs(self, jobs: Sequence[Job], rule: str, enough: int | None = None) -> list[batch.Output]:
        """A batch under a rule, on an idle lane."""
        lane = self._lane_of(rule)
        await rig.idle({lane.id: lane})
        await lane.control(control(rule), CONTROL_S)
        self._runs += 1
        return await batch.run(lane, jobs, f"run-{self._runs}", self._make, enough)

    async def prefill(self, jobs: Jobs) -> None:
        """Have every prompt in the prefix cache."""
        for rule in ("off", f"{NGRAM}:0") if self._ngram_lane else ("off",):
            for each in jobs.values():
                await self.outputs(each, rule)

    async def forget(self) -> None:
        """Have the lane forget the texts it wrote: another run is to write the same."""
        await rig.call(self._lane, "streamserve_forget_history")

    def _lane_of(self, rule: str) -> Lane:
        if not rule.startswith(NGRAM):
            return self._lane
        assert self._ngram_lane is not None, "main() starts it where a rule needs it"
        return self._ngram_lane

    async def cell(self, at: Phase, jobs: Jobs, rule: str) -> tuple[Rate, float]:
        """Rate of the full batch over batch x tokens, and the longest gap."""
        sized = _sized(Phase(at.workload, at.batch, SPARE * at.tokens), jobs[at.workload])

        async def run() -> list[batch.Output]:
            # Here, since a run over which the machine paused is run again, with the same texts.
            await self.forget()
            return await self.outputs(sized, rule, at.batch * at.tokens)

        made, gaps = await steady(run, self._note)
        return batch.full_batch_rate([each.pieces for each in made]), gaps.machine_s

    async def phases(self, through: Sequence[Phase], jobs: Jobs, rule: str) -> tuple[list[Rate], float]:
        """Rate of each phase, run through without a pause, and the longest gap."""

        async def run_through() -> list[Rate]:
            await self.forget()
            left = {workload: iter(each) for workload, each in jobs.items()}
            return [
                batch.until_last_rate(
                    [
                        each.pieces
                        for each in await self.outputs(_sized(at, list(islice(left[at.workload], at.batch))), rule)
                    ]
                )
                for at in through
            ]

        rates, gaps = await steady(run_through, self._note)
        return rates, gaps.machine_s


def _sized(at: Phase, jobs: Sequence[Job]) -> list[Job]:
    return [Job(job.prompt_token_ids, at.tokens) for job in jobs[: at.batch]]


def cells(workloads: Sequence[str], batches: Sequence[int], tokens: int | None) -> list[Phase]:
    """Every workload at every batch size."""
    return [Phase(workload, size, tokens or CELL_TOKENS.get(size, 32)) for workload in workloads for size in batches]


async def measure(bench: Bench, encoded: Mapping[str, Sequence[tuple[int, ...]]], options: Any) -> list[Measured]:
    """All repeats of all cells and phases."""
    grid = cells(options.workloads, options.batches, options.cell_tokens) if options.cells else []
    through = [phase(text) for text in options.through] if options.phases else []
    needs = Counter[str]()
    for each in through:
        needs[each.workload] += each.batch
    size = max([*needs.values(), *(each.batch for each in grid)])
    orders = [rules_of_repeat(options.rules, i, options.static_repeats, options.seed) for i in range(options.repeats)]
    runs = sum(len(order) for order in orders) * len(grid) + len(options.rules) * len(orders) * bool(through)
    progress = report.Progress(runs)
    measured: list[Measured] = []
    for repeat, order in enumerate(orders):
        jobs = jobs_of_repeat(encoded, size, repeat)
        await bench.prefill(jobs)
        if repeat == 0 and grid:
            await bench.cell(grid[0], jobs, options.rules[-1])  # the lane's first batch is not measured
        for place, at in enumerate(grid):
            for rule in order:
                rate, gap_s = await bench.cell(at, jobs, rule)
                measured.append(Measured("cell", place, at, rule, repeat, rate, gap_s))
                progress.step(f"repeat {repeat + 1}, {at}, {rule}: {rate.per_s:.1f} tokens/s")
        # All statics: a phase is judged against the best of them, repeat by repeat.
        for rule in rules_of_repeat(options.rules, repeat, options.repeats, options.seed) if through else ():
            rates, gap_s = await bench.phases(through, jobs, rule)
            whole = sum(rates[1:], rates[0])
            for place, (at, rate) in enumerate(zip(through, rates, strict=True)):
                measured.append(Measured("phase", place, at, rule, repeat, rate, gap_s))
            progress.step(f"repeat {repeat + 1}, phases, {rule}: {whole.per_s:.1f} tokens/s")
        report.write(options.out / "measured.json", [asdict(each) for each in measured])
    return measured


async def store(bench: Bench, encoded: Mapping[str, Sequence[tuple[int, ...]]], options: Any) -> None:
    """Write greedy outputs, one JSON object a line: workload, prompt_token_ids, output_token_ids."""
    with options.store.open("wb") as file:
        for workload, sequences in encoded.items():
            jobs = [Job(each, options.store_tokens) for each in sequences[: options.store_prompts]]
            for group in _groups(jobs, options.store_batch):
                for job, made in zip(group, await bench.outputs(group, "off"), strict=True):
                    row = {
                        "workload": workload,
                        "prompt_token_ids": job.prompt_token_ids,
                        "output_token_ids": made.token_ids,
                    }
                    file.write(msgspec.json.encode(row) + b"\n")
            print(f"{workload}: {len(jobs)} outputs", flush=True)


def _groups(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def encode(folder: Path, options: Any, tokens: Callable[[Sequence[prompts.Message]], list[int]]) -> dict[str, Any]:
    """Workload -> its prompts' tokens, shuffled; those longer than `--longest-prompt` are left out."""
    rng = np.random.default_rng(options.seed)
    encoded = {}
    wanted = sorted({*options.workloads, *(phase(text).workload for text in options.through)})
    for workload, entries in prompts.load_folder(folder, wanted).items():
        every = [tuple(tokens(entry.messages)) for entry in entries]
        short = [each for each in every if len(each) <= options.longest_prompt]
        encoded[workload] = [short[int(place)] for place in rng.permutation(len(short))]
        print(f"{workload}: {len(short)} of {len(every)} prompts have at most {options.longest_prompt} tokens")
    return encoded


def _request(name: str, job: Job) -> Request:
    return rig.greedy(name, job.prompt_token_ids, job.max_tokens, 0.0, NO_SLO)


async def main(options: Any) -> None:
    config = configuration.load("unified", ["lanes.0.cores=1", "speculation.mode='off'", *options.set])
    configs = {"lane": config}
    if any(rule.startswith(NGRAM) for rule in options.rules):
        speculation = msgspec.structs.replace(config.speculation, method="ngram")
        configs[NGRAM] = msgspec.structs.replace(config, speculation=speculation)
    async with rig.live(configs, lambda lane, stage: print(f"{lane}: {stage}", flush=True)) as ready:
        encoded = encode(options.prompts, options, ready.tokenizer.encode)
        lane, *others = (next(iter(each.lanes.values())) for each in ready.sets.values())
        bench = Bench(lane, _request, lambda text: print(text, flush=True), *others)
        if options.store:
            await store(bench, encoded, options)
            return
        report.claim(options.out, {key: str(value) for key, value in sorted(vars(options).items())})
        measured = await measure(bench, encoded, options)
        cost = await rig.call(lane, "streamserve_rule_cost")
    report.write(options.out / "rule_cost.json", cost)
    text = verdict.text(measured, cost)
    (options.out / "report.md").write_text(text)
    print(text)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="folder of JSONL prompt sets")
    parser.add_argument("--out", type=Path, default=Path("bench-speculation"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--static-repeats", type=int, default=3, help="repeats of the cells that run static depths too")
    parser.add_argument("--cells", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--phases", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(CELL_TOKENS))
    parser.add_argument("--cell-tokens", type=int, help="output tokens in a cell; by default fewer in large batches")
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--through", nargs="+", default=list(PHASES), help="the phases, WORKLOAD:BATCH:TOKENS each")
    parser.add_argument("--longest-prompt", type=int, default=800, help="tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="override of the lane's configuration, key=value")
    parser.add_argument("--store", type=Path, help="write greedy outputs here and measure nothing")
    parser.add_argument("--store-prompts", type=int, default=80, help="of each workload")
    parser.add_argument("--store-tokens", type=int, default=128)
    parser.add_argument("--store-batch", type=int, default=8)
    return parser


if __name__ == "__main__":
    uvloop.run(main(arguments().parse_args()))
