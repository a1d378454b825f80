"""Calibration: what was measured of one kind of lane on one machine; all that a simulated lane is made from.

Written by `streamserve calibrate` to `configs/calibration/<host>-<model>.yaml`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from streamserve import document
from streamserve.config import config_folder
from streamserve.errors import ConfigError
from streamserve.lanes.sim.answers import unpacked

FORMAT = 1


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the figures come from; lanes of another model or engine version are not described by them."""

    host: str
    cores_per_lane: int
    model: str
    vllm: str
    streamserve: str
    date: str
    command: str


class StepModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one engine step: t(V) + context_token_s * C, and where it computes prompts, all that follows.

    prompt_token_s * P + attention_s * A, and prompt_s if V = 0: where requests decode, t(V) has a step's fixed cost.
    V: tokens verified (one per decoding request and its draft tokens). C: tokens of context of all decoding requests.
    P: prompt tokens computed. A: over the prompt chunks, tokens n times (context before it + n / 2).
    The form is that of DistServe's and BLIS's step models, with t(V) as a table.
    """

    decode_s: tuple[tuple[int, float], ...]
    """Knots (V, seconds), rising in both; straight on beyond the last; t(0) = 0."""
    context_token_s: float
    prompt_s: float
    prompt_token_s: float
    attention_s: float


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds from the end of a prefill hop until the decode lane may run the request: base_s + token_s * tokens."""

    base_s: float
    token_s: float


class Front(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the front adds: seconds from dispatch to the engine, and from a step's end to its tokens at the client."""

    submit_s: float
    return_s: float


class DraftClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of draft: how often a decode step has one of it, and how far it is right."""

    share: float
    """Of the steps of a request; the rest to 1 over all classes has no draft."""
    acceptance: tuple[float, ...]
    """Per position, the probability that the token is right if all before it are; as long as the drafts are."""
    stay: float = 0.0
    """Probability that a request's next step has this class again, beyond chance: copied text comes in runs."""


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model leaves over: log(measured / modelled) of consecutive epochs; steps within one share its noise."""

    epoch_s: float
    log_residuals: tuple[float, ...]
    """In the order measured, so that slow stretches stay together when blocks of it are drawn."""
    step_sigma: float
    """Standard deviation of log(measured / modelled) of single steps within an epoch."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A lane on a machine."""

    format: int
    origin: Origin
    step: StepModel
    transfer: Transfer
    front: Front
    coupling: tuple[float, ...]
    """How many times longer a step takes, by the number of lanes of the host that work at once, from 1 on.

    The last factor holds for all that are more.
    """
    noise: Noise
    acceptance: dict[str, tuple[DraftClass, ...]]
    """By workload; `mix` is all of them together."""
    block_tokens: int
    kv_tokens: int
    max_depth: int
    """The deepest that the lane drafted."""
    answers: dict[str, tuple[str, ...]] = {}
    """By workload, drafts of recorded answers (`lanes.sim.answers`); without, drafts are drawn from `acceptance`."""
    intervals: dict[str, tuple[float, float]] = {}
    """95 % bootstrap interval by name of the coefficient, e.g. step.prompt_token_s."""


def load(source: str, folder: Path | None = None) -> Calibration:
    """The calibration in a YAML file, or of a name in the folder of those that ship. Raises `ConfigError`."""
    folder = folder or calibration_folder()
    path = Path(source) if source.endswith((".yaml", ".yml")) else folder / f"{source}.yaml"
    try:
        text = path.read_text()
    except OSError as error:
        known = ", ".join(names(folder)) or "none yet: run streamserve calibrate"
        raise ConfigError(f"no calibration {source!r}: give a YAML file or one of {known}") from error
    tree: dict[str, Any] = document.parse(text, source)
    if tree.get("format") != FORMAT:
        raise ConfigError(
            f"{source}: this version reads calibrations of format {FORMAT}, not {tree.get('format')}; "
            "make it anew with streamserve calibrate"
        )
    return checked(document.decode(tree, Calibration, source), source)


def dump(calibration: Calibration) -> str:
    """The calibration as YAML."""
    return yaml.safe_dump(msgspec.to_builtins(calibration), sort_keys=False, default_flow_style=None, width=118)


def calibration_folder() -> Path:
    """The folder of the calibrations that ship with StreamServe."""
    return config_folder() / "calibration"


def names(folder: Path | None = None) -> list[str]:
    """The names that `load` knows, sorted."""
    return sorted(path.stem for path in (folder or calibration_folder()).glob("*.yaml"))


def checked(calibration: Calibration, source: str) -> Calibration:
    """The same calibration. Raises `ConfigError` if a figure in it cannot be."""
    step = calibration.step
    knots = step.decode_s
    rising = all(low[0] < high[0] and low[1] <= high[1] for low, high in zip(knots, knots[1:], strict=False))
    if not knots or not rising or knots[0][0] < 1 or knots[0][1] <= 0:
        raise ConfigError(f"{source}: step.decode_s needs knots [tokens, seconds] above 0, rising in both")
    at_least_0 = {
        "step.context_token_s": step.context_token_s,
        "step.prompt_s": step.prompt_s,
        "step.prompt_token_s": step.prompt_token_s,
        "step.attention_s": step.attention_s,
        "transfer.base_s": calibration.transfer.base_s,
        "transfer.token_s": calibration.transfer.token_s,
        "front.submit_s": calibration.front.submit_s,
        "front.return_s": calibration.front.return_s,
        "noise.step_sigma": calibration.noise.step_sigma,
    }
    for key, value in at_least_0.items():
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{source}: {key} must be a finite number of at least 0, got {value}")
    if not calibration.coupling or min(calibration.coupling) <= 0:
        raise ConfigError(f"{source}: coupling needs one factor above 0 per number of working lanes, from 1 on")
    if calibration.noise.epoch_s <= 0 or min(calibration.block_tokens, calibration.kv_tokens) < 1:
        raise ConfigError(f"{source}: noise.epoch_s, block_tokens and kv_tokens must be above 0")
    for workload, classes in calibration.acceptance.items():
        shares = sum(each.share for each in classes)
        rates = [rate for each in classes for rate in (each.share, each.stay, *each.acceptance)]
        if shares > 1 + 1e-6 or not all(0 <= rate <= 1 for rate in rates):
            raise ConfigError(f"{source}: acceptance.{workload}: shares and rates are probabilities, shares sum to 1")
    for workload, texts in calibration.answers.items():
        _check_answers(texts, len(calibration.acceptance.get(workload, ())), f"{source}: answers.{workload}")
    return calibration


def _check_answers(texts: Sequence[str], classes: int, source: str) -> None:
    try:
        found = [each for text in texts for each in unpacked(text) if each is not None]
    except ValueError as error:
        raise ConfigError(f"{source}: an answer is pairs of letters, class and right tokens, or --") from error
    if not texts or any(kind >= classes for kind, _ in found):
        raise ConfigError(f"{source}: needs an answer, with drafts of the {classes} classes of that workload")
