"""vLLM's search for kernels passes by llvmlite, which a script that uses numba has loaded."""

import sys
from types import ModuleType
from typing import Any

import pytest
from llvmlite.binding import ffi  # type: ignore[import-untyped]
from vllm.triton_utils import dispatcher

from streamserve.lanes.vllm.rebinding import MISLEADING, spare_llvmlite


def test_an_engine_starts_where_llvmlite_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel: Any
    kernel, wrapper = object(), object()
    other: Any = ModuleType("other")
    other.kernel = kernel
    loaded = {MISLEADING: ffi, "other": other}
    monkeypatch.setattr(dispatcher, "_rebind_kernels", dispatcher._rebind_kernels)
    monkeypatch.setattr(sys, "modules", loaded)
    overrides: Any = [(kernel, wrapper)]
    with pytest.raises(AttributeError, match="no attribute 'get'"):
        dispatcher._rebind_kernels(overrides)
    spare_llvmlite()
    dispatcher._rebind_kernels(overrides)
    assert other.kernel is wrapper
    assert loaded[MISLEADING] is ffi
