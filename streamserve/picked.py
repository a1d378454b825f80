"""What `streamserve bench --pick` chose, by model and hardware, for `streamserve serve` without a configuration."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import yaml

from streamserve import whole
from streamserve.errors import ConfigError


class Picked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A configuration, the changes in it, and why."""

    config: str
    changes: list[str]
    """As for `--set`."""
    reason: str
    """In a few words, with its figures."""
    date: str


def path() -> Path:
    """The file: under $STREAMSERVE_STATE, else streamserve in $XDG_STATE_HOME or ~/.local/state."""
    if chosen := os.environ.get("STREAMSERVE_STATE"):
        return Path(chosen).expanduser() / "picked.yaml"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "streamserve" / "picked.yaml"


def key(model: str, cores: int, gpus: Sequence[str]) -> str:
    """What a choice holds for. gpus: names of the devices."""
    return f"{model}, {', '.join(sorted(gpus)) if gpus else f'{cores} cores'}"


def read(file: Path) -> dict[str, Picked]:
    """Key -> choice; none where there is no file. Raises `ConfigError` when it is something else."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): remove it, or give --config") from error
    try:
        return msgspec.convert(yaml.safe_load(text) or {}, dict[str, Picked])
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{file} is no list of choices ({error}): remove it, or give --config") from error


def write(file: Path, under: str, choice: Picked) -> None:
    """Note a choice, whole or not at all; it replaces the one of the same key. Raises `ConfigError`."""
    _write(file, {**read(file), under: choice})


def forget(file: Path, under: str) -> bool:
    """Take a choice back; False where there was none. Raises `ConfigError`."""
    kept = read(file)
    if under not in kept:
        return False
    del kept[under]
    _write(file, kept)
    return True


def _write(file: Path, kept: Mapping[str, Picked]) -> None:
    try:
        whole.write(file, yaml.safe_dump(msgspec.to_builtins(kept), sort_keys=True, width=100).encode())
    except OSError as error:
        raise ConfigError(f"{file} cannot be written ({error.strerror}): set STREAMSERVE_STATE to a folder") from error
