"""`python leash.py PARENT CORES COMMAND...`: becomes the command, on these cores, and is told when its parent dies.

Run as a file by the interpreter alone, so that it costs a hundredth of a second.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, cores: set[int], command: list[str]) -> None:
    """Replace this process. cores: empty = as they are."""
    if cores:
        os.sched_setaffinity(0, cores)
    # SIGTERM, not SIGKILL: a server ends its own engines on it, which are out of reach from here.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("its parent is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), {int(core) for core in sys.argv[2].split(",") if core}, sys.argv[3:])
