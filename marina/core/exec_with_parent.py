"""Run a program that ends with its parent process.

    python -I -S exec_with_parent.py PARENT PROGRAM [ARGUMENT ...]

PARENT is the id of that process. The program takes our place, so that it has our process id; its environment
names it as MARINA_PARENT, for the programs that it starts through this file. On Linux the kernel kills it
when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG), which for the supervisor is the main
thread. Elsewhere nothing does: the next start cleans up.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PYTHON_ARGUMENTS = ("-I", "-S", __file__)  # before PARENT


def exit_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; do nothing if this is not Linux.

    Exits when `parent` has ended before.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which started this one, has ended")


if __name__ == "__main__":
    first, *command = sys.argv[1:]
    exit_with_parent(int(first))
    os.environ["MARINA_PARENT"] = str(os.getpid())
    try:
        os.execv(command[0], command)  # noqa: S606  # no shell is meant
    except OSError as error:
        sys.exit(f"{command[0]} can't be run: {error.strerror}")
