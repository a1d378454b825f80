"""Files that are whole or not there."""

import os
from pathlib import Path

import pytest

from streamserve import whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "note.json"
    whole.write(path, b"old")
    whole.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["note.json"]


def test_a_sudden_end_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    whole.write(path, b"old")

    def full(_self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        whole.write(path, b"new")
    assert path.read_bytes() == b"old"
