"""No process of a lane outlives the one that started it."""

import ctypes
import os
import signal

PARENT_VARIABLE = "STREAMSERVE_PARENT_PID"
"""Tells a child who started it, in case that one is gone before the child could ask the kernel."""

IMPORT_LOG = "STREAMSERVE_IMPORT_LOG"
"""Tells the process that lanes are forked from where it writes."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it has ended, or has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is not None and os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)
