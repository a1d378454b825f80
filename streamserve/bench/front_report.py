"""What the runs of the fronts say: a table per number of streams and tokens."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streamserve.bench import report
from streamserve.bench.figures import spread
from streamserve.bench.front_client import Load
from streamserve.bench.fronts import DIRECT

HEADER = (
    "front", "requests/s", "added TTFT p50, ms", "p99, ms", "added E2E p50, ms", "p99, ms", "CPU ms/request",
    "CPU us/token", "front busy", "client busy", "failed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of the client on one front."""

    front: str
    streams: int
    tokens: int
    load: Load
    front_cpu_s: float
    client_cpu_s: float
    """Of the client and the fake servers."""


def text(made: Sequence[Measured], titles: Mapping[str, str], settings: Mapping[str, object]) -> str:
    """Markdown; medians over the repeats with quartiles. What is added is taken repeat by repeat."""
    found: dict[tuple[int, int], dict[str, list[Measured]]] = defaultdict(lambda: defaultdict(list))
    for each in made:
        found[each.tokens, each.streams][each.front].append(each)
    every = f"{settings['interval_ms']:g} ms" if settings["interval_ms"] else "at once"
    parts = [
        f"Tokens come {every}, prompts have {settings['prompt_words']} words, {settings['lanes']} lanes or servers."
    ]
    parts += ["\n".join(f"- `{name}`: {title}" for name, title in titles.items())]
    for (tokens, streams), by_front in found.items():
        parts.append(f"## {streams} streams of {tokens} tokens")
        base = [each.load for each in by_front[DIRECT]]
        parts.append(report.table(HEADER, [_row(name, runs, base) for name, runs in by_front.items()]))
    return "\n\n".join(parts) + "\n"


def _row(name: str, runs: Sequence[Measured], base: Sequence[Load]) -> list[object]:
    def added(take: Callable[[Load], float | None]) -> str:
        pairs = [(take(run.load), 0.0 if name == DIRECT else take(load)) for run, load in zip(runs, base, strict=True)]
        sound = [took - least for took, least in pairs if took is not None and least is not None]
        if not sound:
            return "nothing served"
        return f"({_number(spread(sound).median)})" if name == DIRECT else _said(sound)

    served = [max(1, run.load.requests - run.load.failed) for run in runs]
    cpu_ms = [1000 * run.front_cpu_s / n for run, n in zip(runs, served, strict=True)]
    return [
        name,
        _said([run.load.rate for run in runs]),
        added(lambda load: load.ttft_p50_ms),
        added(lambda load: load.ttft_p99_ms),
        added(lambda load: load.e2e_p50_ms),
        added(lambda load: load.e2e_p99_ms),
        "" if name == DIRECT else _said(cpu_ms),
        ""
        if name == DIRECT
        else spread([1000 * each / run.tokens for each, run in zip(cpu_ms, runs, strict=True)]).median,
        spread([run.front_cpu_s / run.load.seconds for run in runs]).median,
        spread([run.client_cpu_s / run.load.seconds for run in runs]).median,
        sum(run.load.failed for run in runs),
    ]


def _said(values: Sequence[float]) -> str:
    around = spread(values)
    return f"{_number(around.median)} ({_number(around.low)} .. {_number(around.high)})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
