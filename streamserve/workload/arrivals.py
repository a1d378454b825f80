"""Arrival processes: when requests come, in seconds from the start of a run.

Every process is a pure function of its parameters and a seeded generator, and yields non-decreasing times; all but
traces go on for ever.
"""

import csv
import gzip
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np

from streamserve.errors import ConfigError

Kind = Literal["poisson", "gamma", "mmpp", "diurnal", "trace"]

USAGE = (
    "write poisson, gamma:CV, mmpp:RATE,RATE,...:DWELL_S (rates relative to each other), diurnal:SWING:PERIOD_S "
    "or trace:FILE[@START_S]"
)


def poisson(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Independent arrivals at `rate` per second."""
    return gamma(rate, 1.0, rng)


def gamma(rate: float, cv: float, rng: np.random.Generator) -> Iterator[float]:
    """Gamma-distributed gaps of mean 1/`rate` and coefficient of variation `cv`; 1 = Poisson, above = bursts.

    As vLLM's benchmark draws them (its burstiness is 1/cv^2).
    """
    _check_positive(rate=rate, cv=cv)
    shape = 1 / cv**2
    at_s = 0.0
    while True:
        at_s += float(rng.gamma(shape, 1 / (rate * shape)))
        yield at_s


def mmpp(rates: Sequence[float], dwell_s: float, rng: np.random.Generator) -> Iterator[float]:
    """A Markov-modulated Poisson process: Poisson at one of `rates` per second, changing to the next in turn.

    dwell_s: mean time in each state, exponentially distributed; the first state is drawn. The mean rate is the mean of
    `rates`.
    """
    _check_positive(dwell_s=dwell_s, rate=sum(rates))
    if min(rates) < 0:
        raise ConfigError(f"arrivals: rates must not be negative, got {list(rates)}")
    at_s = 0.0
    for state in count(int(rng.integers(len(rates)))):
        left_s = at_s + float(rng.exponential(dwell_s))
        rate = rates[state % len(rates)]
        while rate:
            # What is left of a gap when the rate changes is drawn anew: exponential gaps have no memory.
            at_s += float(rng.exponential(1 / rate))
            if at_s > left_s:
                break
            yield at_s
        at_s = left_s


def diurnal(rate: float, swing: float, period_s: float, rng: np.random.Generator) -> Iterator[float]:
    """Poisson arrivals whose rate swings as rate * (1 + swing * sin(2 pi t / period_s)), by thinning (Lewis, Shedler).

    swing: 0 = even, 1 = down to nothing once a period.
    """
    _check_positive(rate=rate, period_s=period_s)
    if not 0 <= swing <= 1:
        raise ConfigError(f"arrivals: swing must be between 0 and 1, got {swing:g}")
    peak = 1 + swing
    for at_s in poisson(rate * peak, rng):
        if rng.random() * peak <= 1 + swing * math.sin(2 * math.pi * at_s / period_s):
            yield at_s


def trace(path: Path, rate_scale: float = 1.0, start_s: float = 0.0) -> Iterator[float]:
    """The arrivals of a recorded trace from `start_s` on, which becomes 0; ends with the trace.

    path: CSV or gzipped CSV with a column `arrival_s`. rate_scale: how many times faster it is played.
    Raises `ConfigError` when it cannot be read, or its times are not numbers, negative or unsorted.
    """
    _check_positive(rate_scale=rate_scale)
    times_s = read_trace(path)
    if start_s < 0 or start_s > times_s[-1]:
        raise ConfigError(f"{path}: it lasts {times_s[-1]:g} s, start inside that; got start {start_s:g}")
    return ((at_s - start_s) / rate_scale for at_s in times_s[bisect_left(times_s, start_s) :])


def read_trace(path: Path) -> list[float]:
    """The column `arrival_s`, checked. Raises `ConfigError` as `trace` does."""
    try:
        with _open(path) as file:
            rows = csv.DictReader(file)
            if "arrival_s" not in (rows.fieldnames or ()):
                raise ConfigError(f"{path}: no column arrival_s; it has {', '.join(rows.fieldnames or ['none'])}")
            times_s = [_time(path, line, row["arrival_s"]) for line, row in enumerate(rows, 2)]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a CSV of arrivals: {error}") from error
    if not times_s:
        raise ConfigError(f"{path}: there is no arrival in it")
    for line, (before, after) in enumerate(zip(times_s, times_s[1:], strict=False), 3):
        if after < before:
            raise ConfigError(f"{path} line {line}: arrival_s goes back from {before:g} to {after:g}; sort the file")
    return times_s


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A process as named on a command line, still without its rate."""

    kind: Kind
    cv: float = 1.0
    rates: tuple[float, ...] = ()
    dwell_s: float = 0.0
    swing: float = 0.0
    period_s: float = 0.0
    path: Path | None = None
    start_s: float = 0.0

    def times(self, rate: float, rng: np.random.Generator) -> Iterator[float]:
        """The process at a mean of `rate` per second; a trace is played faster or slower to have it.

        Raises `ConfigError` from a trace that cannot be used.
        """
        if self.kind == "gamma":
            return gamma(rate, self.cv, rng)
        if self.kind == "mmpp":
            mean = sum(self.rates) / len(self.rates)
            return mmpp([rate * each / mean for each in self.rates], self.dwell_s, rng)
        if self.kind == "diurnal":
            return diurnal(rate, self.swing, self.period_s, rng)
        if self.path is not None:
            return trace(self.path, rate / _mean_rate(self.path, self.start_s), self.start_s)
        return poisson(rate, rng)


def parse(spec: str) -> Arrivals:
    """A process from its text: `poisson`, `gamma:5`, `mmpp:1,4:10`, `diurnal:0.8:120`, `trace:FILE@START_S`.

    Raises `ConfigError`; a trace's file is not looked at yet.
    """
    kind, _, rest = spec.partition(":")
    match kind, rest.split(":") if kind != "trace" else [rest]:
        case "poisson", [""]:
            return Arrivals("poisson")
        case "gamma", [cv]:
            return Arrivals("gamma", cv=_number(spec, cv))
        case "mmpp", [rates, dwell_s]:
            numbers = tuple(_number(spec, each, least=0.0) for each in rates.split(","))
            if not sum(numbers):
                raise ConfigError(f"arrivals {spec!r}: at least one rate must be above 0")
            return Arrivals("mmpp", rates=numbers, dwell_s=_number(spec, dwell_s))
        case "diurnal", [swing, period_s]:
            return Arrivals("diurnal", swing=_number(spec, swing, least=0.0), period_s=_number(spec, period_s))
        case "trace", [file] if file:
            path, at, start_s = file.rpartition("@")
            if not at:
                return Arrivals("trace", path=Path(file))
            return Arrivals("trace", path=Path(path), start_s=_number(spec, start_s, least=0.0))
    known = "" if kind in get_args(Kind) else f"there is no process {kind!r}; "
    raise ConfigError(f"arrivals {spec!r}: {known}{USAGE}")


def stretched(times_s: Sequence[float], rate: float) -> list[float]:
    """The same pattern with exactly `rate` arrivals per second over its whole length.

    A short run of a bursty process seldom has the process's mean rate: 40 gaps of CV 5 are off by 80 % as a rule. This
    makes its load what its name says and leaves its bursts.
    """
    last_s = times_s[-1]
    factor = len(times_s) / rate / last_s if last_s else 1.0
    return [at_s * factor for at_s in times_s]


def _mean_rate(path: Path, start_s: float) -> float:
    times_s = [at_s - start_s for at_s in read_trace(path) if at_s >= start_s]
    if len(times_s) < 2 or not times_s[-1]:
        raise ConfigError(f"{path}: fewer than two instants from {start_s:g} s on, so it has no rate; start earlier")
    return len(times_s) / times_s[-1]


def _open(path: Path) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8", newline="") if path.suffix == ".gz" else path.open(newline="")


def _time(path: Path, line: int, text: str | None) -> float:
    try:
        at_s = float(text or "")
    except ValueError as error:
        raise ConfigError(f"{path} line {line}: arrival_s must be a number of seconds, got {text!r}") from error
    if not math.isfinite(at_s) or at_s < 0:
        raise ConfigError(f"{path} line {line}: arrival_s must be finite and not negative, got {text}")
    return at_s


def _number(spec: str, text: str, least: float | None = None) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(f"arrivals {spec!r}: {text!r} is not a number; {USAGE}") from error
    if not math.isfinite(number) or (number <= 0 if least is None else number < least):
        raise ConfigError(f"arrivals {spec!r}: {text} is too small or not finite; {USAGE}")
    return number


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"arrivals: {name} must be above 0, got {value:g}")
