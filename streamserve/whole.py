"""Files that are whole or not there: whoever reads meanwhile, or after a sudden end, sees the old one or the new."""

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write all of a file or nothing; folders that are missing are made. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)
