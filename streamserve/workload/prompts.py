"""Prompt sets: read from JSONL files, mixed, made up for smoke tests, or strung together into conversations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from streamserve.errors import ConfigError

Message = tuple[str, str]
"""Role and text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's messages, and how many tokens its answer is given."""

    id: str
    workload: str
    messages: tuple[Message, ...]
    max_tokens: int
    reference: str = ""
    """The source's answer, empty where it has none."""


class _Line(msgspec.Struct):
    id: str
    prompt: str
    max_tokens: int
    reference: str = ""


def load(path: Path) -> list[Prompt]:
    """The prompts of one JSONL file, whose stem is their workload.

    Each line is an object with `id`, `prompt`, `max_tokens` and, where there is one, `reference`.
    Raises `ConfigError`.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"prompts: {path} cannot be read ({error.strerror}); name a folder of JSONL files") from error
    decoder = msgspec.json.Decoder(_Line)
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path} line {number}: {error}") from error
        if not entry.prompt or entry.max_tokens < 1:
            raise ConfigError(f"{path} line {number}: prompt must not be empty and max_tokens must be at least 1")
        prompts.append(
            Prompt(entry.id, path.stem, (("user", entry.prompt),), entry.max_tokens, reference=entry.reference)
        )
    if not prompts:
        raise ConfigError(f"{path}: there is no prompt in it")
    return prompts


def load_folder(folder: Path, workloads: Sequence[str] = ()) -> dict[str, list[Prompt]]:
    """Workload -> prompts, of every JSONL file in the folder or of the named ones, in the order of the names.

    Raises `ConfigError`.
    """
    known = sorted(path.stem for path in folder.glob("*.jsonl"))
    if not known:
        raise ConfigError(f"prompts: there is no .jsonl file in {folder}")
    if missing := sorted(set(workloads) - set(known)):
        raise ConfigError(f"prompts: no {', '.join(missing)} in {folder}; it has {', '.join(known)}")
    return {name: load(folder / f"{name}.jsonl") for name in workloads or known}


def mix(sets: Mapping[str, Sequence[Prompt]], rng: np.random.Generator, n: int) -> list[Prompt]:
    """`n` prompts, of every workload the same share (one more of some where `n` does not divide), shuffled.

    None comes twice before every other of its workload came once.
    """
    picked: list[Prompt] = []
    for place, prompts in enumerate(sets.values()):
        share = n // len(sets) + (place < n % len(sets))
        order: list[int] = []
        while len(order) < share:
            order.extend(int(each) for each in rng.permutation(len(prompts)))
        picked.extend(prompts[each] for each in order[:share])
    return [picked[int(each)] for each in rng.permutation(len(picked))]


def conversations(
    openers: Sequence[Prompt], followups: Sequence[Prompt], turns: int, n: int, rng: np.random.Generator
) -> list[list[Prompt]]:
    """`n` conversations of `turns` turns; each turn repeats all messages before it and adds one of the user's.

    The answers in between are the sources' references, not what a model said, so that every system is sent the same.
    Raises `ConfigError` when a prompt that must be answered has no reference.
    """
    openings = mix({"openers": openers}, rng, n)
    rest = mix({"followups": followups}, rng, n * (turns - 1))
    return [
        _conversation(f"conversation-{i}", [first, *rest[i * (turns - 1) : (i + 1) * (turns - 1)]])
        for i, first in enumerate(openings)
    ]


def _conversation(name: str, asked: Sequence[Prompt]) -> list[Prompt]:
    turns: list[Prompt] = []
    history: tuple[Message, ...] = ()
    for number, prompt in enumerate(asked):
        if not prompt.reference:
            raise ConfigError(f"prompts: {prompt.id} has no reference to continue a conversation from")
        messages = (*history, *prompt.messages)
        turns.append(
            Prompt(f"{name}-turn-{number}", prompt.workload, messages, prompt.max_tokens, reference=prompt.reference)
        )
        history = (*messages, ("assistant", prompt.reference))
    return turns


_WHO = ("A gardener", "The old baker", "A young engineer", "The night nurse", "Our neighbour", "A sailor")
_WHAT = ("counts", "repairs", "paints", "collects", "sorts", "carries")
_THINGS = ("red buckets", "paper maps", "wooden clocks", "apple crates", "glass lamps", "iron keys")
_WHEN = ("before breakfast", "on Sundays", "when it rains", "in the cellar", "after the market closed", "every spring")
_TASKS = ("Go on with this story.", "Repeat the sentences above word by word.", "Who does what? Make a list.")


def synthetic(n: int, rng: np.random.Generator, sentences: tuple[int, int] = (1, 24)) -> list[Prompt]:
    """`n` made-up prompts for smoke tests: between so many sentences, and then a task."""
    prompts = []
    for number in range(n):
        told = " ".join(_sentence(rng) for _ in range(int(rng.integers(sentences[0], sentences[1] + 1))))
        text = f"{told}\n\n{_pick(_TASKS, rng)}"
        prompts.append(
            Prompt(f"synthetic-{number}", "synthetic", (("user", text),), int(rng.integers(16, 65)), reference=told)
        )
    return prompts


def _sentence(rng: np.random.Generator) -> str:
    return (
        f"{_pick(_WHO, rng)} {_pick(_WHAT, rng)} {int(rng.integers(2, 90))} {_pick(_THINGS, rng)} {_pick(_WHEN, rng)}."
    )


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
