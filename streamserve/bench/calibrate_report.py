"""A calibration's report: coefficients with intervals, errors on held-out steps beside the noise, and plots."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from streamserve.bench import report
from streamserve.lanes.sim.calibration import Calibration
from streamserve.lanes.sim.fit import Fit
from streamserve.lanes.sim.fit_drafts import tokens_per_step
from streamserve.lanes.sim.fit_score import SORTS, Score, sort_of
from streamserve.lanes.sim.nnls import Array

TokensPerStep = Mapping[str, Mapping[int, float]]
"""Workload -> depth -> tokens per step, played back."""


def write_report(folder: Path, fit: Fit, playback: TokensPerStep) -> str:
    """report.md and, where matplotlib is installed, PNG plots beside it; returns the text."""
    plots = draw(folder, fit)
    text = report_text(fit, playback, plots)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text)
    return text


def report_text(fit: Fit, playback: TokensPerStep, plots: Sequence[str] = ()) -> str:
    """The report in Markdown."""
    calibration = fit.calibration
    origin = calibration.origin
    parts = [
        f"# Calibration of {origin.model} on {origin.host}",
        f"{origin.date}, vLLM {origin.vllm}, StreamServe {origin.streamserve}, {origin.cores_per_lane} core(s) a lane: "
        f"`{origin.command}`",
        "## Errors of the step model",
        "Mean absolute relative errors of steps held out: each by a model fitted without its cell. A/A: by the mean of "
        "the steps of other cells that compute the same, which is what noise leaves to any model. "
        "Of cells: of the median of a cell's like steps. Slow drift, as other cells show it, is taken out of both.",
        score_table(fit.held_out),
    ]
    if fit.real:
        parts += [
            "Real prompts on all lanes at once, coupling included and drift as it was; no fit has seen them.",
            score_table(fit.real),
        ]
    parts += ["## Coefficients", "With 95 % bootstrap intervals over cells.", coefficient_table(calibration)]
    parts += ["## Noise", noise_text(calibration)]
    if calibration.acceptance:
        parts += ["## Drafts", draft_table(calibration)]
        parts += ["Tokens per step, played back / by the classes:", playback_table(calibration, playback)]
    parts += [f"![{name}]({name}.png)" for name in plots] or ["No plots: matplotlib is not installed."]
    return "\n\n".join(parts) + "\n"


def score_table(scores: Mapping[str, Score]) -> str:
    """A row per sort of steps."""
    header = ["steps that", "n", "error", "A/A", "beyond A/A", "error of cells", "A/A of cells", "median bias"]
    names = {"prefill": "compute prompts", "decode": "decode", "verify": "verify drafts", "mixed": "do both"}
    rows = []
    for sort, score in scores.items():
        # Errors that have nothing to do with each other add up as squares.
        beyond = None
        if score.mape is not None and score.noise is not None:
            beyond = max(0.0, score.mape**2 - score.noise**2) ** 0.5
        figures = (score.mape, score.noise, beyond, score.cell_mape, score.cell_noise, score.bias)
        rows.append([names[sort], score.steps, *map(_percent, figures)])
    return report.table(header, rows)


def coefficient_table(calibration: Calibration) -> str:
    """Each coefficient that has an interval, and its value."""
    rows = []
    for name, (low, high) in calibration.intervals.items():
        rows.append([name, f"{_value(calibration, name):.4g}", f"{low:.4g} .. {high:.4g}"])
    return report.table(["coefficient", "value", "95 %"], rows)


def noise_text(calibration: Calibration) -> str:
    """How much epochs and steps differ."""
    noise = calibration.noise
    residuals = np.array(noise.log_residuals)
    after = float(np.corrcoef(residuals[:-1], residuals[1:])[0, 1]) if len(residuals) > 2 and residuals.std() else 0.0
    return (
        f"{len(residuals)} epochs of {noise.epoch_s:g} s: sigma of their log residuals {residuals.std():.3f}, "
        f"correlation with the next one {after:.2f}, mean of measured / modelled {np.exp(residuals).mean():.3f}. "
        f"Steps within an epoch: sigma {noise.step_sigma:.3f}."
    )


def draft_table(calibration: Calibration) -> str:
    """The classes of each workload."""
    rows = [
        [workload, place, f"{each.share:.3f}", f"{each.stay:.2f}", " ".join(f"{rate:.2f}" for rate in each.acceptance)]
        for workload, classes in calibration.acceptance.items()
        for place, each in enumerate(classes)
    ]
    return report.table(["workload", "class", "share", "stay", "acceptance by position"], rows)


def playback_table(calibration: Calibration, playback: TokensPerStep) -> str:
    """How well the classes stand for the drafts that they were made from."""
    depths = sorted({depth for each in playback.values() for depth in each})
    rows = [
        [
            workload,
            *(
                f"{played[depth]:.2f} / {tokens_per_step(calibration.acceptance[workload], depth):.2f}"
                for depth in depths
            ),
        ]
        for workload, played in playback.items()
    ]
    return report.table(["workload", *(f"depth {depth}" for depth in depths)], rows)


def draw(folder: Path, fit: Fit) -> list[str]:
    """Plots as PNG files; their names, none where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    measured_s = np.array([step.time_s for step in fit.fitted])
    sorts = np.array([sort_of(step) for step in fit.fitted])
    shown = [sort for sort in SORTS if (sorts == sort).any()]
    pairs = {sort: (fit.fitted_s[sorts == sort], measured_s[sorts == sort]) for sort in shown}
    ends = np.array([fit.fitted_s.min(), fit.fitted_s.max()])
    _scatter(folder / "steps.png", ("modelled, s", "measured, s"), pairs, (ends, ends))
    verified = np.array([step.verified for step in fit.fitted])
    prompt = np.array([step.prompt_tokens for step in fit.fitted])
    parts = (
        ("decode", "verified tokens", verified, (sorts == "decode") | (sorts == "verify")),
        ("prompt", "prompt tokens", prompt, sorts == "prefill"),
    )
    for name, label, of, chosen in parts:
        both = {"measured": (of[chosen], measured_s[chosen]), "modelled": (of[chosen], fit.fitted_s[chosen])}
        _scatter(folder / f"{name}.png", (label, "s"), both)
    residuals = fit.calibration.noise.log_residuals
    axes = ("epoch", "log(measured / modelled)")
    report.plot(folder / "noise.png", "Noise", axes, {"epochs": (range(len(residuals)), residuals)})
    return ["steps", *(name for name, *_ in parts), "noise"]


def _scatter(
    path: Path,
    axes: tuple[str, str],
    points: Mapping[str, tuple[Array, Array]],
    line: tuple[Array, Array] | None = None,
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    plane = figure.add_subplot(xlabel=axes[0], ylabel=axes[1], xscale="log", yscale="log")
    for name, (x, y) in points.items():
        plane.plot(x, y, ".", markersize=3, label=name)
    if line is not None:
        plane.plot(*line, "k-", linewidth=0.7)
    plane.grid(alpha=0.3)
    plane.legend()
    figure.savefig(path, dpi=120)


def _value(calibration: Calibration, name: str) -> float:
    section, _, rest = name.partition(".")
    if section == "coupling":
        return calibration.coupling[int(rest) - 1]
    part = getattr(calibration, section)
    if rest.startswith("decode_s."):
        return float(dict(part.decode_s)[int(rest.rpartition(".")[2])])
    return float(getattr(part, rest))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
