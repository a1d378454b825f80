"""Store: trained policies on disk, a folder with `policy.npz` and `card.json` each; read without pickle.

Whatever is wrong with one, `PolicyError` says so in one line.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from streamserve import whole
from streamserve.errors import PolicyError, one_line
from streamserve.policy import interface
from streamserve.policy.card import Card
from streamserve.policy.network import Weights

WEIGHTS, CARD = "policy.npz", "card.json"
MOST_BYTES = {WEIGHTS: 16 * 2**20, CARD: 2**20}
"""Larger files are not read."""
NEVER = (1980, 1, 1, 0, 0, 0)
"""The date in the archive, so that the same weights are the same bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A checked policy."""

    card: Card
    weights: Weights


def shipped_folder() -> Path:
    """The folder of the policies that ship with StreamServe."""
    return Path(__file__).resolve().parents[2] / "checkpoints"


def shipped(folder: Path | None = None) -> list[Path]:
    """The folders of the shipped policies, by name."""
    return sorted(path.parent for path in (folder or shipped_folder()).glob(f"*/{CARD}"))


def find(source: str, folder: Path | None = None) -> Path:
    """The folder that a name or a path means: a name is one of the shipped policies. Raises `PolicyError`."""
    path = Path(source).expanduser()
    if path.name in MOST_BYTES:
        path = path.parent
    named = (folder or shipped_folder()) / source
    try:
        if source and os.sep not in source and named.is_dir():
            return named
        if source and path.is_dir():
            return path.absolute()
    except (OSError, ValueError) as error:
        raise PolicyError(f"no policy {source[:200]!r}: {one_line(error)[:200]}") from error
    known = ", ".join(each.name for each in shipped(folder)) or "none"
    raise PolicyError(f"no policy {source[:200]!r}: give its folder, or the name of a shipped one ({known})")


def card(folder: Path) -> Card:
    """The card in this folder, checked by itself. Raises `PolicyError`."""
    try:
        read = msgspec.json.decode(_read(folder / CARD), type=Card)
        read.check()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"policy {folder.name}: {CARD} is no card: {one_line(error)}") from error
    except PolicyError as error:
        raise PolicyError(f"policy {folder.name}: {error}") from error
    return read


def load(folder: Path) -> Policy:
    """The policy in this folder. Raises `PolicyError` unless it can serve with this version's codec."""
    made = card(folder)
    try:
        data = _read(folder / WEIGHTS)
        if hashlib.sha256(data).hexdigest() != made.sha256:
            raise PolicyError(f"{WEIGHTS} is not the file that its card describes: copy or export both again")
        weights = Weights.of(_arrays(data))
        interface.check(made, weights)
    except PolicyError as error:
        raise PolicyError(f"policy {folder.name}: {error}") from error
    return Policy(made, weights)


def save(folder: Path, made: Card, weights: Weights) -> Card:
    """Write a policy; the same weights become the same bytes. The card as written, with its hashes."""
    data = _npz(weights.arrays())
    written = msgspec.structs.replace(made, sha256=hashlib.sha256(data).hexdigest()).sealed()
    written.check()
    whole.write(folder / WEIGHTS, data)
    whole.write(folder / CARD, msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")
    return written


def _arrays(data: bytes) -> Mapping[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST_BYTES[WEIGHTS]:
            raise PolicyError(f"{WEIGHTS} unpacks to {size} bytes, at most {MOST_BYTES[WEIGHTS]} are read")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return dict(archive)
    except PolicyError:
        raise
    except Exception as error:
        # numpy and zipfile raise a dozen kinds of errors on foreign bytes, and all of them mean the same here.
        raise PolicyError(f"{WEIGHTS} is damaged or no archive ({one_line(error)}): export it again") from error


def _npz(arrays: Mapping[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", NEVER), member.getvalue())
    return file.getvalue()


def _read(path: Path) -> bytes:
    most = MOST_BYTES[path.name]
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise PolicyError(
            f"{path.name} cannot be read ({error.strerror}): a policy needs {WEIGHTS} and {CARD}"
        ) from error
    if len(data) > most:
        raise PolicyError(f"{path.name} is larger than {most} bytes: that is no policy")
    return data
