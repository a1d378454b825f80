"""Live: what blocks of runs on real lanes say, in the same figures as the simulated comparison."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from agents import report
from agents.comparison import Cell, Figures, Table
from agents.served import figure
from envs.reward import Weights
from streamserve.errors import ConfigError
from streamserve.policy import store
from streamserve.policy.card import Score
from streamserve.types import Finish

BY_ITSELF = (str(Finish.STOP), str(Finish.LENGTH))
FEW = 6
"""With fewer blocks a bootstrap interval is narrower than it should be."""
CAVEAT = (
    f"With fewer than {FEW} blocks of a scenario its intervals are too narrow. Start it again with more `--repeats` "
    "and the same `--out` for more."
)


class Ended(Protocol):
    """One request of a run."""

    @property
    def e2e_s(self) -> float: ...
    @property
    def ttft_s(self) -> float | None: ...
    @property
    def tpot_s(self) -> float | None: ...
    @property
    def slo_met(self) -> bool: ...
    @property
    def finish(self) -> str: ...


class Run(Protocol):
    """One system under one plan."""

    @property
    def requests(self) -> Sequence[Ended]: ...
    @property
    def policy(self) -> dict[str, Any] | None:
        """What its policy says of itself."""
        ...


class Block(Protocol):
    """One plan under every system."""

    @property
    def scenario(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def runs(self) -> Mapping[str, Run]: ...
    @property
    def steady(self) -> bool:
        """Whether the machine never paused."""
        ...


def table(blocks: Sequence[Block], rival: str, figure: str) -> Table:
    """The comparison, paired by block; those in which the machine paused are left out.

    figure: of `Figures`, the one by which policies are judged (`judged`).
    """
    sound = [block for block in blocks if block.steady]
    cells = []
    for scenario in dict.fromkeys(block.scenario for block in sound):
        own = [block for block in sound if block.scenario == scenario]
        for name in own[0].runs:
            made = [figures(block.runs[name].requests) for block in own]
            cells.append(Cell(scenario, name, [block.number for block in own], made))
    return Table(rival, cells, figure)


def judged(policies: Iterable[str]) -> str:
    """The figure that all these policies, by folder or name, are judged by; the cost where they differ.

    Raises `ConfigError` and `PolicyError`.
    """
    found = {figure(store.card(store.find(each))) for each in policies}
    return found.pop() if len(found) == 1 else "cost"


def figures(requests: Sequence[Ended]) -> Figures:
    """Of one run. Its cost is what the reward of environments makes of it, without deadlines: time, and failures."""
    finished = [each for each in requests if each.finish in BY_ITSELF]
    failed = len(requests) - len(finished)
    count = max(1, len(requests))
    e2e = [each.e2e_s for each in finished] or [float("nan")]
    return Figures(
        cost=sum(each.e2e_s for each in requests) + Weights().failure * failed,
        e2e_mean=float(np.mean(e2e)),
        e2e_p99=float(np.percentile(e2e, 99)),
        ttft_mean=float(np.mean([each.ttft_s for each in finished if each.ttft_s is not None] or [float("nan")])),
        tpot_mean=float(np.mean([each.tpot_s for each in finished if each.tpot_s is not None] or [float("nan")])),
        slo_share=sum(each.slo_met for each in requests) / count,
        failed_share=failed / count,
    )


def text(made: Table, blocks: Sequence[Block]) -> str:
    """The report in Markdown."""
    unsteady = sum(not block.steady for block in blocks)
    parts = [f"On real lanes. {unsteady} of {len(blocks)} blocks are left out: the machine paused."]
    if not made.cells:
        return parts[0] + " Nothing is left to compare.\n"
    if min(len(cell.seeds) for cell in made.cells) < FEW:
        parts.append(CAVEAT)
    parts.append(report.text(made).rstrip())
    if followed := _followed(blocks):
        header = ["scenario", "policy", "decisions", "as the heuristic", "not followed"]
        parts += ["## How far the policies were followed", report.markdown(header, followed)]
    return "\n\n".join(parts) + "\n"


def keep(made: Table, blocks: Sequence[Block], folder: Path) -> None:
    """`evaluation.json`, `report.md`, and a picture of each figure, in the folder of the runs."""
    report.keep(made, text(made, blocks), folder)


def score(name: str, made: Table) -> None:
    """Write the gains into the only policy's card, as those on real lanes.

    Raises `ConfigError` with fewer blocks than tell anything: by two of them, a policy that is the heuristic itself
    would lose for sure one time in four.
    """
    fewest = min(len(cell.seeds) for cell in made.cells)
    if fewest < FEW:
        raise ConfigError(
            f"--write-scores wants {FEW} blocks of every scenario in which the machine did not pause, the fewest are "
            f"{fewest}: start it again with more --repeats and the same --out"
        )
    folder = store.find(name)
    policy = store.load(folder)
    (title,) = [each for each in made.policies if each == policy.card.name]
    found = [(scenario, made.gain(scenario, title, figure(policy.card))) for scenario in made.scenarios]
    live = [Score(scenario, gain.value, gain.low, gain.high) for scenario, gain in found]
    store.save(folder, msgspec.structs.replace(policy.card, live=live), policy.weights)


def _followed(blocks: Sequence[Block]) -> list[list[str]]:
    rows = []
    for scenario, name in dict.fromkeys((block.scenario, name) for block in blocks for name in block.runs):
        told = [each for block in blocks if block.scenario == scenario and (each := block.runs[name].policy)]
        if not told:
            continue
        agreements = [each["agreement"] for each in told if each["agreement"] is not None]
        reasons = sorted({reason for each in told for reason in each["fallbacks"]})
        counts = {reason: sum(each["fallbacks"].get(reason, 0) for each in told) for reason in reasons}
        rows.append(
            [
                scenario,
                name,
                str(sum(each["decisions"] for each in told)),
                f"{np.mean(agreements):.0%}" if agreements else "-",
                ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "-",
            ]
        )
    return rows
