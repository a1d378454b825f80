"""Report: a comparison as Markdown and as plots; it says where learning loses."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from agents.comparison import Bound, Table
from agents.statistics import Estimate, estimate
from streamserve import whole

WANTED = 0.05
"""A gain that is worth the name."""
FIGURES = {
    "cost": "cost",
    "e2e_mean": "E2E mean",
    "e2e_p99": "E2E p99",
    "ttft_mean": "TTFT mean",
    "slo_share": "SLO met",
}


def text(table: Table) -> str:
    """The report in Markdown."""
    parts = [
        f"Shares of {table.rival}'s figures that each policy saves (of SLO attainment: by which it has more), over all "
        f"paired episodes together, with the 95 % bootstrap interval; above 0 is better than {table.rival}."
    ]
    if table.bound is not None:
        parts.append(_explained(table.bound))
    for policy in table.policies:
        parts += [f"## {policy}", _summary(table, policy), _scenarios(table, policy)]
    parts += ["## All figures", _absolute(table)]
    return "\n\n".join(parts) + "\n"


def _summary(table: Table, policy: str) -> str:
    scenarios = table.scenarios
    gains = {scenario: table.gain(scenario, policy) for scenario in scenarios}
    won = [scenario for scenario, gain in gains.items() if gain.value >= WANTED and gain.above_0]
    losses, judged = table.losses(policy), FIGURES[table.figure]
    lines = [
        f"- over all scenarios: interquartile mean of the gain in {judged} {_shown(table.overall(policy))}",
        f"- better by {WANTED:.0%} or more, for sure: {len(won)} of {len(scenarios)}"
        + (f" ({', '.join(won)})" if won else ""),
    ]
    if losses:
        told = "; ".join(f"{scenario} {_shown(gains[scenario])}" for scenario in losses)
        lines.append(f"- **learning loses in {len(losses)} of {len(scenarios)}**: {told}")
    else:
        lines.append("- learning loses in none of them")
    return "\n".join(lines)


def _explained(bound: Bound) -> str:
    return (
        f"{bound.name}: what a search of {bound.tries} tries per episode found that other pairs for the same requests, "
        f"with the same luck, would have won in {FIGURES[bound.figure]}. It knew the future, so no policy can be "
        "expected to reach it; it did not try everything, so the most that is possible is at least that. Much of it is "
        "luck that it took: with other luck, the same decisions win what the last column says."
    )


def _scenarios(table: Table, policy: str) -> str:
    header = ["scenario", *FIGURES.values()]
    rows = [
        [scenario, *(_shown(table.gain(scenario, policy, figure)) for figure in FIGURES)]
        for scenario in table.scenarios
    ]
    if (bound := table.bound) is not None:
        header += [f"{bound.name}: {FIGURES[bound.figure]}", f"{bound.name}, other luck"]
        for scenario, row in zip(table.scenarios, rows, strict=True):
            lasting = estimate([bound.lasting[scenario]], np.random.default_rng(0))
            row += [_shown(table.gain(scenario, bound.name, bound.figure)), _shown(lasting)]
    return markdown(header, rows)


def _absolute(table: Table) -> str:
    rows = []
    for cell in table.cells:
        mean = {
            name: float(np.mean([getattr(each, name) for each in cell.figures]))
            for name in cell.figures[0].__struct_fields__
        }
        rows.append(
            [
                cell.scenario,
                cell.policy,
                f"{mean['cost']:.4g}",
                f"{mean['e2e_mean']:.3g}",
                f"{mean['e2e_p99']:.3g}",
                f"{mean['ttft_mean']:.3g}",
                f"{1000 * mean['tpot_mean']:.3g}",
                f"{mean['slo_share']:.1%}",
                f"{mean['failed_share']:.1%}",
            ]
        )
    header = ["scenario", "policy", "cost", "E2E, s", "p99, s", "TTFT, s", "TPOT, ms", "SLO met", "failed"]
    return markdown(header, rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def keep(table: Table, report: str, folder: Path) -> None:
    """`evaluation.json`, `report.md`, and a picture of each figure."""
    whole.write(folder / "evaluation.json", msgspec.json.format(msgspec.json.encode(table), indent=1))
    whole.write(folder / "report.md", report.encode())
    for figure in FIGURES:
        forest(folder / f"{figure}.png", table, figure)


def forest(path: Path, table: Table, figure: str = "cost") -> None:
    """A PNG: the gain of every policy in every scenario, with its interval."""
    from matplotlib.figure import Figure

    scenarios, policies = table.scenarios, table.policies
    if table.bound is not None and table.bound.figure == figure:
        policies = [*policies, table.bound.name]
    picture = Figure(figsize=(8, 1.2 + 0.32 * len(scenarios)), layout="constrained")
    title = f"{FIGURES[figure]}: gain over {table.rival}, %"
    plane = picture.add_subplot(title=title)
    for number, policy in enumerate(policies):
        places = [
            place + 0.6 * (number / max(1, len(policies) - 1) - 0.5) * (len(policies) > 1)
            for place in range(len(scenarios))
        ]
        gains = [table.gain(scenario, policy, figure) for scenario in scenarios]
        values = [100 * gain.value for gain in gains]
        reach = [[100 * (g.value - g.low) for g in gains], [100 * (g.high - g.value) for g in gains]]
        plane.errorbar(values, places, xerr=np.maximum(reach, 0.0), fmt="o", markersize=4, label=policy)
    plane.axvline(0.0, color="black", linewidth=0.8)
    plane.set_yticks(range(len(scenarios)), scenarios)
    plane.invert_yaxis()
    plane.grid(alpha=0.3)
    plane.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)


def curve(path: Path, title: str, steps: Sequence[int], gains: Sequence[Estimate]) -> None:
    """A PNG: the gain over the heuristic in the course of a training run."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 4), layout="constrained")
    plane = picture.add_subplot(title=title, xlabel="decisions", ylabel="gain over the heuristic, %")
    plane.plot(steps, [100 * gain.value for gain in gains], marker="o", markersize=3)
    plane.fill_between(steps, [100 * gain.low for gain in gains], [100 * gain.high for gain in gains], alpha=0.2)
    plane.axhline(0.0, color="black", linewidth=0.8)
    plane.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)


def _shown(gain: Estimate) -> str:
    return f"{gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]"
