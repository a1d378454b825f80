"""The step model written down step by step: what a simulated lane must come to in its strides."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from streamserve.lanes.sim.calibration import StepModel
from streamserve.signals import StepCost


@dataclass
class Job:
    """A request by when it arrives, its prompt and its output, and the instants of its first and last token."""

    at_s: float
    prompt: int
    output: int
    computed: int = 0
    made: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


def serve(jobs: Sequence[Job], model: StepModel, max_running: int, max_step_tokens: int) -> None:
    """Fill in the instants of each job; blocks are plenty and nothing is cached."""
    table = StepCost(decode_s=model.decode_s)
    coming = deque(sorted(jobs, key=lambda job: job.at_s))
    waiting: deque[Job] = deque()
    running: list[Job] = []
    at_s = 0.0
    while coming or waiting or running:
        if not waiting and not running:
            at_s = max(at_s, coming[0].at_s)
        while coming and coming[0].at_s <= at_s:
            waiting.append(coming.popleft())
        decoding = [job for job in running if job.made or job.prompt - job.computed == 1]
        budget = max_step_tokens - len(decoding)
        chunks: list[tuple[Job, int]] = []
        for job in running:
            if job not in decoding and budget > 0:
                chunks.append((job, min(budget, job.prompt - job.computed)))
                budget -= chunks[-1][1]
        while waiting and budget > 0 and len(running) < max_running:
            job = waiting.popleft()
            running.append(job)
            chunks.append((job, min(budget, job.prompt)))
            budget -= chunks[-1][1]
        at_s += step_s(table, model, decoding, chunks)
        for job, count in chunks:
            job.computed += count
        for job in [*decoding, *(job for job, _ in chunks if job.computed == job.prompt)]:
            job.made += 1
            if job.made == 1:
                job.first_s = at_s
            if job.made == job.output:
                job.last_s = at_s
                running.remove(job)


def step_s(table: StepCost, model: StepModel, decoding: Sequence[Job], chunks: Sequence[tuple[Job, int]]) -> float:
    seconds = table.decode_step_s(len(decoding)) if decoding else 0.0
    seconds += model.context_token_s * sum(job.prompt + job.made for job in decoding)
    if chunks:
        seconds += 0.0 if decoding else model.prompt_s
        seconds += model.prompt_token_s * sum(count for _, count in chunks)
        seconds += model.attention_s * sum(count * (job.computed + count / 2) for job, count in chunks)
    return seconds
