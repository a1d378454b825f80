"""`python bound.py NAME=VALUE... -- MODULE ARGUMENTS...`: runs the module with variables that only its children see.

vLLM's server binds nothing itself where one process computes, so OpenMP is told by the environment; yet the front of
the server links OpenMP too, and would bind itself, and by inheritance its engine, to the first of the cores. Run as a
file, by the interpreter that is to run the module.
"""

import ctypes
import os
import runpy
import sys


def main(settings: list[str], module: str, arguments: list[str]) -> None:
    """Become the module."""
    # OpenMP, preloaded, reads its variables now, before they are there.
    if hasattr(preloaded := ctypes.CDLL(None), "omp_get_max_threads"):
        preloaded.omp_get_max_threads()
    os.environ.update(dict(setting.split("=", 1) for setting in settings))
    # The folder of this file is where a script's own modules would be.
    sys.path[0] = ""
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    end = sys.argv.index("--")
    main(sys.argv[1:end], sys.argv[end + 1], sys.argv[end + 2 :])
