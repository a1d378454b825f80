"""What one run of the contest is, and what it brought: the contract between who drives servers and who reports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a system under one load, once."""

    system: str
    workload: str
    """A prompt set's name, or `mix`."""
    arrivals: str
    """poisson, gamma:CV, burst (all at once) or trace:FILE."""
    load: float
    """Share of the capacity that was measured or given for the workload."""
    repeat: int

    @property
    def key(self) -> str:
        """A name that may be a file's."""
        return "_".join(
            str(part).replace("/", "-").replace(":", "-")
            for part in (self.system, self.workload, self.arrivals, f"{self.load:g}", self.repeat)
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One request as the load generator saw it."""

    begun_s: float
    """From the run's first request on."""
    prompt_tokens: int
    output_tokens: int
    ttft_s: float | None
    e2e_s: float | None
    itl_s: tuple[float, ...]
    """Between two pieces of the stream; a piece may hold several tokens where drafts are accepted."""
    error: str | None = None
    """Why it failed or did not end; None = served."""

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None where it has none."""
        if self.ttft_s is None or self.e2e_s is None or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Watched:
    """How a StreamServe server stood at one instant of a run."""

    at_s: float
    depth: dict[str, float]
    """Mean verified draft tokens per request and step, by lane."""
    running: dict[str, int]
    waiting: dict[str, int]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run."""

    cell: Cell
    rate: float
    """Requests per second that were asked for."""
    duration_s: float
    samples: tuple[Sample, ...]
    watched: tuple[Watched, ...] = ()
    client: str = "vllm bench serve"
