"""vLLM 0.32's search for Triton kernels, kept from an object that it dies of.

An engine that starts looks through every loaded module for kernels to replace, and reads `vars(value).get` of all that
it finds. llvmlite's library answers every name with a function of its own, `__dict__` too. It is loaded wherever a
script that uses numba starts lanes: multiprocessing imports the script in each of them.
"""

import sys
from typing import Any

from vllm.triton_utils import dispatcher

MISLEADING = "llvmlite.binding.ffi"


def spare_llvmlite() -> None:
    """Have this process's search for kernels leave llvmlite's library out."""
    rebind = dispatcher._rebind_kernels

    def rebind_others(overrides: list[Any]) -> None:
        hidden = sys.modules.pop(MISLEADING, None)
        try:
            rebind(overrides)
        finally:
            if hidden is not None:
                sys.modules[MISLEADING] = hidden

    dispatcher._rebind_kernels = rebind_others
