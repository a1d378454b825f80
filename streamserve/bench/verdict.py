"""What the measurements of `streamserve.bench.speculation` say: ratios within repeats, and Markdown.

"Best static" is chosen afterwards from the same repeats, depth 0 included: a bar that nobody who has to choose a depth
beforehand can count on.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from streamserve.bench.batch import Rate
from streamserve.bench.figures import Spread, ratio, spread
from streamserve.bench.report import table

if TYPE_CHECKING:
    from streamserve.bench.speculation import Measured

PerRepeat = Mapping[int, Rate]
"""Repeat -> the rate measured in it."""
PerRule = Mapping[str, PerRepeat]

MAX_GAP_S = 2.0


def text(measured: Sequence["Measured"], cost: Mapping[str, float] | None) -> str:
    """The report in Markdown; runs over which the machine paused are left out."""
    sound = [each for each in measured if each.gap_s <= MAX_GAP_S]
    parts = [f"{len(measured) - len(sound)} of {len(measured)} figures are left out: the machine paused."]
    parts += [_cells(sound), _phases(sound)]
    if cost and cost.get("step_s"):
        share = cost["rule_s"] / cost["step_s"]
        parts.append(f"The rule took {100 * share:.2f} % of the step time over {cost['steps']:.0f} steps.")
    return "\n\n".join(part for part in parts if part) + "\n"


def grouped(measured: Sequence["Measured"], kind: str) -> dict[tuple[int, str], dict[str, dict[int, Rate]]]:
    """(place, name) of each cell or phase -> rule -> repeat -> rate."""
    groups: dict[tuple[int, str], dict[str, dict[int, Rate]]] = defaultdict(lambda: defaultdict(dict))
    for each in measured:
        if each.kind == kind:
            groups[each.place, str(each.phase)][each.rule][each.repeat] = each.rate
    return groups


def compare(rule: PerRepeat, base: PerRepeat) -> Spread | None:
    """Ratio of the rates in the repeats that have both; None without any."""
    both = sorted(rule.keys() & base.keys())
    if not both:
        return None
    return ratio([rule[i].per_s for i in both], [base[i].per_s for i in both])


def best_static(rules: PerRule) -> str:
    """The static depth, 0 included, of the highest median rate."""
    medians = {
        rule: statistics.median(rate.per_s for rate in repeats.values())
        for rule, repeats in rules.items()
        if _static(rule)
    }
    return max(medians, key=lambda rule: medians[rule])


def whole(phases: Sequence[PerRule], rule: str) -> dict[int, Rate]:
    """All phases under one rule, in the repeats that have all of them."""
    return whole_of([phase.get(rule, {}) for phase in phases])


def whole_of(parts: Sequence[PerRepeat]) -> dict[int, Rate]:
    """Tokens of all phases over the time of all phases, in the repeats that have all of them."""
    repeats = set.intersection(*(set(part) for part in parts))
    return {i: sum((part[i] for part in parts), Rate(0, 0.0)) for i in sorted(repeats)}


def _adaptive(rules: PerRule) -> list[str]:
    return [rule for rule in rules if not _static(rule)]


def _static(rule: str) -> bool:
    return rule == "off" or rule.startswith(("fixed:", "ngram:"))


def _cells(measured: Sequence["Measured"]) -> str:
    groups = grouped(measured, "cell")
    if not groups:
        return ""
    names = sorted({rule for rules in groups.values() for rule in rules if rule != "off"})
    rows = []
    for (_, cell), rules in sorted(groups.items()):
        base = rules.get("off", {})
        static = best_static(rules) if any(rule not in _adaptive(rules) for rule in rules) else "-"
        against = [compare(rules[rule], rules.get(static, {})) for rule in _adaptive(rules)]
        rows.append(
            [cell, spread([rate.per_s for rate in base.values()]) if base else "-"]
            + [compare(rules.get(name, {}), base) or "-" for name in names]
            + [static, "; ".join(str(each) for each in against)]
        )
    header = ["cell", "off, tokens/s", *(f"{name} / off" for name in names), "best static", "adaptive / best static"]
    return "## Cells\n\n" + table(header, rows)


def _phases(measured: Sequence["Measured"]) -> str:
    groups = grouped(measured, "phase")
    if not groups:
        return ""
    order = sorted(groups)
    phases = [groups[key] for key in order]
    rules = sorted({rule for phase in phases for rule in phase})
    wholes = {rule: whole(phases, rule) for rule in rules}
    complete = {rule: rates for rule, rates in wholes.items() if rates}
    static = [rule for rule in complete if rule not in _adaptive(complete)]
    if not static:
        return "## Phases\n\nno static depth ran through all phases"
    single = best_static(complete)
    oracle = whole_of([phase[best_static(phase)] for phase in phases])
    rows = [
        [name, best_static(phase), *(_rate(phase.get(rule, {})) for rule in rules), *_against(phase)]
        for (_, name), phase in zip(order, phases, strict=True)
    ]
    rows.append(["whole", single, *(_rate(wholes[rule]) for rule in rules), *_against(complete)])
    header = ["phase", "best static", *(f"{rule}, tokens/s" for rule in rules), "adaptive / best static"]
    lines = [
        f"{rule} over the best static of each phase (an oracle): {compare(complete[rule], oracle)}"
        for rule in _adaptive(complete)
    ]
    return "## Phases\n\n" + table(header, rows) + "\n\n" + "\n".join(lines)


def _against(rules: PerRule) -> list[Any]:
    base = rules[best_static(rules)]
    return ["; ".join(f"{rule} {compare(rules[rule], base)}" for rule in _adaptive(rules)) or "-"]


def _rate(repeats: PerRepeat) -> float | str:
    return statistics.median(rate.per_s for rate in repeats.values()) if repeats else "-"
