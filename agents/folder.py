"""The folder of a training run: its recipe, its checkpoints, its comparisons, and TensorBoard's files."""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from agents.recipe import Recipe, checked
from streamserve import document, whole
from streamserve.errors import ConfigError

RUNS = Path("runs")


class Begun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run was started with."""

    recipe: Recipe
    seed: int
    command: str


@dataclass(frozen=True, slots=True)
class Folder:
    """`begun.yaml`, `trials.json`, and `last/` and `best/` with `model.zip`, `policy.npz` and `card.json` each."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def last(self) -> Path:
        """The newest checkpoint, where a resumed run goes on."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """The checkpoint that did best in a comparison."""
        return self.path / "best"

    @property
    def trials(self) -> Path:
        return self.path / "trials.json"

    @classmethod
    def new(cls, name: str, begun: Begun, runs: Path = RUNS) -> "Folder":
        """A folder for a run that starts. Raises `ConfigError` where there is one already."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ConfigError(f"--name {name!r} may hold letters, digits, '.', '_' and '-' only")
        folder = cls(runs / name)
        try:
            folder.path.mkdir(parents=True)
        except FileExistsError as error:
            raise ConfigError(
                f"{folder.path} is there already: go on with --resume {name}, or give another --name"
            ) from error
        folder.note(begun)
        return folder

    def note(self, begun: Begun) -> None:
        """Write down with what it was started, or goes on from here."""
        whole.write(self.path / "begun.yaml", yaml.safe_dump(msgspec.to_builtins(begun), sort_keys=False).encode())

    @classmethod
    def of(cls, source: str, runs: Path = RUNS) -> "Folder":
        """The folder of a run by its name or its path. Raises `ConfigError`."""
        for path in (runs / source, Path(source)):
            if (path / "begun.yaml").is_file():
                return cls(path)
        known = ", ".join(sorted(path.parent.name for path in runs.glob("*/begun.yaml"))) or "none"
        raise ConfigError(f"no run {source!r}: give the name of one in {runs} ({known}), or its folder")

    def begun(self) -> Begun:
        """What it was started with. Raises `ConfigError`."""
        path = self.path / "begun.yaml"
        begun = document.decode(document.parse(path.read_text(), str(path)), Begun, str(path))
        checked(begun.recipe, str(path))
        return begun


def free_name(wish: str, runs: Path = RUNS) -> str:
    """The wish with the first number that no run has yet."""
    number = 1
    while (runs / f"{wish}-{number}").exists():
        number += 1
    return f"{wish}-{number}"
