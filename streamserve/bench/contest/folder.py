"""What lies in a contest's folder: one JSON per run, the capacities, the settings, and what is made from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamserve.bench import report
from streamserve.bench.contest.cell import Cell, Run
from streamserve.bench.contest.settings import LAX, Settings
from streamserve.bench.steady import MAX_GAP_S


@dataclass(frozen=True, slots=True)
class Kept:
    """A run, and what has to be known to trust it."""

    run: Run
    gap_s: float
    """The longest time for which the machine stood still."""
    idle_cores: float
    """Cores that the other systems, which were up and idle, kept busy on average."""
    seen: int
    """Requests whose prompt the server had been sent before."""
    apart: bool = False
    """Whether the system was started for this run alone."""

    @property
    def sound(self) -> bool:
        """Whether the machine did not pause: a run over a pause is left out of the report."""
        return self.gap_s <= MAX_GAP_S


class Folder:
    """A contest's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, settings: Settings, also: Mapping[str, Any]) -> None:
        """Note what is measured, or see that it is what was measured so far. Raises `ConfigError`.

        also: what else decides about the results: prompts, model, cores, GPUs.
        """
        if not any((self.path / "cells").glob("*.json")) and not self.capacities():
            # An earlier start measured nothing, perhaps for a mistake in its options: it binds nobody.
            (self.path / "settings.json").unlink(missing_ok=True)
        told = {key: value for key, value in asdict(settings).items() if key not in LAX}
        report.claim(self.path, told | {"files": report.contents((*settings.systems, *settings.arrivals))} | dict(also))

    def machine(self) -> dict[str, Any]:
        """What was measured on, as noted by `claim`."""
        found: dict[str, Any] | None = report.read(self.path / "settings.json", dict)
        return dict((found or {}).get("machine", {}))

    def run(self, cell: Cell) -> Kept | None:
        """A run of an earlier start; None where there is none. Raises `ConfigError` when it is something else."""
        return report.read(self._cell(cell), Kept)

    def keep(self, kept: Kept) -> None:
        """Write a run, whole or not at all."""
        report.write(self._cell(kept.run.cell), kept)

    def capacities(self) -> dict[str, float]:
        """Workload -> requests per second, as far as it was measured."""
        found: dict[str, float] | None = report.read(self.path / "capacity.json", dict[str, float])
        return found or {}

    def keep_capacities(self, found: Mapping[str, float]) -> None:
        """Write the capacities."""
        report.write(self.path / "capacity.json", found)

    def write(self, name: str, text: str) -> Path:
        """Write a text, and say where it lies."""
        path = self.path / name
        path.write_text(text)
        return path

    def _cell(self, cell: Cell) -> Path:
        return self.path / "cells" / f"{cell.key}.json"
