"""Functions compiled by numba, which keeps the result beside their file for later processes."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function as machine code; division by zero gives infinity, as in numpy.

    What is kept is dropped only when the function's own file changes: all that it calls must be there as well.
    """
    try:
        made: Callable[P, R] = numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:
        # No folder can be written to: every process compiles for itself.
        made = numba.njit(error_model="numpy")(function)
    return made
