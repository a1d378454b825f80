"""Prompt sets from their public sources, over the Hugging Face hub's rows API; none of them ships with StreamServe."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from streamserve.errors import ConfigError

ROWS_URL = "https://datasets-server.huggingface.co/rows"
PAGE = 100
SIZE = 80
LETTERS_PER_TOKEN = 4
LONGEST_PROMPT = 6000
"""Letters; longer entries are left out, as small models could not read them."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A public data set, and how an entry becomes a prompt."""

    dataset: str
    config: str
    split: str
    licence: str
    prompt: Callable[[Row], str]
    reference: Callable[[Row], str]
    least: int
    most: int
    """Bounds of the output tokens."""


SOURCES: Mapping[str, Source] = {
    "alpaca": Source(
        "tatsu-lab/alpaca", "default", "train", "CC BY-NC 4.0",
        lambda row: f"{row['instruction']}\n\n{row['input']}".strip(), lambda row: row["output"], 64, 512,
    ),
    "gsm8k": Source(
        "openai/gsm8k", "main", "test", "MIT",
        lambda row: row["question"], lambda row: row["answer"], 128, 384,
    ),
    "humaneval": Source(
        "openai/openai_humaneval", "openai_humaneval", "test", "MIT",
        lambda row: f"Complete the following Python function.\n\n{row['prompt']}",
        lambda row: row["canonical_solution"], 128, 512,
    ),
    "sum": Source(
        "abisee/cnn_dailymail", "3.0.0", "test", "Apache-2.0",
        lambda row: f"Summarize the following article.\n\n{row['article']}", lambda row: row["highlights"], 64, 256,
    ),
}  # fmt: skip


def fetch(names: Sequence[str], folder: Path, client: httpx.Client, note: Callable[[str], None]) -> None:
    """Write `NAME.jsonl` for each name that is not in the folder yet, as `prompts.load_folder` reads it.

    Raises `ConfigError` when there is no source of that name, or the hub does not answer.
    """
    if unknown := [each for each in names if each not in SOURCES]:
        raise ConfigError(f"--hub has no {', '.join(unknown)}: there are {', '.join(SOURCES)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = folder / f"{name}.jsonl"
        if file.exists():
            continue
        source = SOURCES[name]
        rows = _rows(source, client)
        lines = [msgspec.json.encode(each) for each in _entries(name, source, rows)]
        if not lines:
            raise ConfigError(f"--hub: {source.dataset} has no entry of the expected kind; use --prompts DIR instead")
        file.write_bytes(b"\n".join(lines) + b"\n")
        note(f"{name}: {len(lines)} prompts of {source.dataset} ({source.licence})")


def _rows(source: Source, client: httpx.Client) -> list[Row]:
    rows: list[Row] = []
    asked: dict[str, str | int] = {
        "dataset": source.dataset,
        "config": source.config,
        "split": source.split,
        "length": PAGE,
    }
    for offset in (0, PAGE, 2 * PAGE):
        try:
            answer = client.get(ROWS_URL, params={**asked, "offset": offset})
            answer.raise_for_status()
            page = [each["row"] for each in answer.json()["rows"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"--hub: {source.dataset} cannot be read from {ROWS_URL} ({error}); use --prompts DIR, with a JSONL "
                "file for each workload, or leave both out for made-up prompts"
            ) from error
        rows += page
        if len(page) < PAGE:
            break
    return rows


def _entries(name: str, source: Source, rows: Sequence[Row]) -> list[dict[str, Any]]:
    made = []
    for place, row in enumerate(rows):
        prompt, reference = source.prompt(row), source.reference(row)
        if prompt and reference and len(prompt) <= LONGEST_PROMPT:
            wanted = 16 * -(-(len(reference) * 3 // 2) // (16 * LETTERS_PER_TOKEN))
            tokens = min(source.most, max(source.least, wanted))
            made.append({"id": f"{name}-{place}", "prompt": prompt, "reference": reference, "max_tokens": tokens})
    random.Random(0).shuffle(made)
    return made[:SIZE]
