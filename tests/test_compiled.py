"""Compiled functions where numba can keep nothing."""

from collections.abc import Callable
from typing import Any

import numba
import pytest

from streamserve.compiled import compiled


def test_without_a_folder_to_keep_it_in_every_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def njit(**options: Any) -> Callable[[Any], Any]:
        asked.append(options)
        if "cache" in options:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(len) is len
    assert [sorted(options) for options in asked] == [["cache", "error_model"], ["error_model"]]
