"""Synthetic greedy outputs: text that copies pieces of its prompt, as summaries and code edits do."""

import json
from collections.abc import Iterator
from random import Random

COPYING = {"new": 0.1, "copy": 0.6}
"""Per workload, how likely the next piece is copied from what came before."""


def lines(requests: int = 12, tokens: int = 60, seed: int = 0) -> Iterator[str]:
    """Stored outputs as the replay reads them, per workload as many requests."""
    for workload, copying in COPYING.items():
        for request in range(requests):
            random = Random(f"{seed} {workload} {request}")
            prompt = [random.randrange(200) for _ in range(80)]
            sequence = list(prompt)
            while len(sequence) < len(prompt) + tokens:
                if random.uniform(0, 1) < copying:
                    start = random.randrange(len(sequence) - 12)
                    sequence += sequence[start : start + random.randrange(4, 12)]
                else:
                    sequence.append(random.randrange(200))
            record = {
                "workload": workload,
                "prompt_token_ids": prompt,
                "output_token_ids": sequence[len(prompt) : len(prompt) + tokens],
            }
            yield json.dumps(record)
