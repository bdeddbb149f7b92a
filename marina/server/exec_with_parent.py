"""Run a program that dies with the process that started it: python -I -S exec_with_parent.py PARENT PROGRAM [ARGUMENT ...]

PARENT is the id of that process. The program takes our place, so that it has our process id; its environment names it as
MARINA_PARENT, for the programs that it starts through this file. On Linux the kernel kills it when the *thread* that started it ends
(prctl(2), PR_SET_PDEATHSIG), which for the supervisor is the main thread. Elsewhere nothing does: the next start cleans up.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(f"the process {parent} that asked for {command[0]} is gone")  # before we asked the kernel to watch it
    os.environ["MARINA_PARENT"] = str(os.getpid())
    try:
        os.execv(command[0], command)  # noqa: S606  # no shell is meant
    except OSError as error:
        sys.exit(f"{command[0]} can't be run: {error.strerror}")
