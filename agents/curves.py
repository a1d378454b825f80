"""`python -m agents.curves RUN...`: the learning curves of several runs in one picture, and their mean."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from agents import rating
from agents.folder import Folder
from agents.report import markdown
from agents.statistics import Estimate, estimate
from streamserve.errors import ConfigError, one_line

Curve = Mapping[int, float]
"""The gain over the heuristic after so many decisions, 0.05 = 5 % better."""


def curve(folder: Folder) -> Curve:
    """Of one run. Raises `ConfigError` where it was never compared."""
    ratings = rating.read(folder)
    if ratings is None or not ratings.ratings:
        raise ConfigError(f"{folder.path} has no comparison yet: train for longer than `trials.every`")
    return {each.steps: each.gain for each in ratings.ratings}


def means(curves: Sequence[Curve]) -> dict[int, Estimate]:
    """Over the runs, with a bootstrap interval, at each number of decisions that all of them were compared at."""
    common = sorted(set.intersection(*(set(each) for each in curves)))
    return {steps: estimate([[each[steps] for each in curves]], np.random.default_rng(0)) for steps in common}


def draw(path: Path, title: str, curves: Mapping[str, Curve]) -> None:
    """A PNG: every run as a thin line, their mean as a thick one with its interval."""
    picture = Figure(figsize=(8, 4.5), layout="constrained")
    plane = picture.add_subplot(title=title, xlabel="decisions", ylabel="gain over the heuristic, %")
    for each in curves.values():
        plane.plot(list(each), [100 * gain for gain in each.values()], color="grey", linewidth=0.8)
    mean = means(list(curves.values()))
    plane.plot(list(mean), [100 * gain.value for gain in mean.values()], marker="o", linewidth=2.5)
    low, high = ([100 * getattr(gain, end) for gain in mean.values()] for end in ("low", "high"))
    plane.fill_between(list(mean), low, high, alpha=0.2)
    plane.axhline(0.0, color="black", linewidth=0.8)
    plane.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)


def table(curves: Mapping[str, Curve]) -> str:
    """Markdown: a row per run, the gain in percent at each comparison, and the mean of all."""
    mean = means(list(curves.values()))
    rows = [[name, *(f"{100 * each[steps]:+.1f}" for steps in mean)] for name, each in curves.items()]
    shown = [f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]" for gain in mean.values()]
    return markdown(["decisions", *(f"{steps:,}" for steps in mean)], [*rows, ["**mean**", *shown]])


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m agents.curves", description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of runs, or their names in runs/")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture")
    parser.add_argument("--title", default="Gain over the heuristic while training")
    given = parser.parse_args(arguments)
    try:
        curves = {folder.name: curve(folder) for folder in map(Folder.of, given.runs)}
    except ConfigError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    draw(given.out, given.title, curves)
    print(table(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
