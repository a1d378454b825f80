"""TensorBoard over a folder of runs, in a process of its own."""

import subprocess
import sys
from pathlib import Path

from streamserve.errors import ConfigError


def board(folder: Path, port: int) -> int:
    """Serve the folder on 127.0.0.1 until Ctrl-C; the exit status. Raises `ConfigError`."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}: streamserve train makes it, or name another with --logdir")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1"]
    try:
        return subprocess.run([*command, "--port", str(port)], check=False).returncode
    except KeyboardInterrupt:
        return 0
