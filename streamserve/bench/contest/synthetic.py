"""Prompt sets that are made up from templates, for smoke tests: short questions, and long texts to summarise."""

from collections.abc import Sequence

import numpy as np

from streamserve.workload import prompts
from streamserve.workload.prompts import Prompt

SIZE = 80
QUESTIONS = "questions"
TEXTS = "texts"

_ASKED = (
    "How would you explain {} to a child?",
    "Name {n} things that everybody should know about {}.",
    "What is the difference between {} and {}?",
    "Write a short letter to a friend about {}.",
    "A box holds {n} pages about {} and {m} about {}. How many pages are there? Think step by step.",
)
_TOPICS = (
    "bread", "rivers", "bridges", "bees", "maps", "winter", "paper", "clocks", "sailing", "chess", "mountains", "glass",
    "gardens", "trains", "lighthouses", "salt", "music", "ink", "forests", "markets",
)  # fmt: skip


def sets(seed: int, size: int = SIZE) -> dict[str, list[Prompt]]:
    """`questions` (about 15 tokens, answers of 32 to 96) and `texts` (300 to 900 tokens, answers of 48 to 96)."""
    rng = np.random.default_rng([seed, SIZE])
    questions = [_question(number, rng) for number in range(size)]
    return {QUESTIONS: questions, TEXTS: [_text(number, rng) for number in range(size)]}


def _question(number: int, rng: np.random.Generator) -> Prompt:
    one, other = (str(each) for each in rng.choice(_TOPICS, 2, replace=False))
    n, m = (int(each) for each in rng.integers(3, 90, 2))
    text = _pick(_ASKED, rng).format(one, other, n=n, m=m)
    return Prompt(f"{QUESTIONS}-{number}", QUESTIONS, (("user", text),), 16 * int(rng.integers(2, 7)))


def _text(number: int, rng: np.random.Generator) -> Prompt:
    (told,) = prompts.synthetic(1, rng, (24, 70))
    text = f"Summarize what is told here in two or three sentences.\n\n{told.reference}"
    return Prompt(f"{TEXTS}-{number}", TEXTS, (("user", text),), 16 * int(rng.integers(3, 7)))


def _pick(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]
