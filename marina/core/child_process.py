"""Runs a program to its end, or to this process's, if that comes first."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from marina.core import signals
from marina.core.exec_with_parent import PYTHON_ARGUMENTS


def run_child(
    command: Sequence[str], grace_seconds: float = 0.0, timeout: float | None = None, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """The result of `command`, as `subprocess.run(..., text=True)` gives it; `options` are those of Popen.

    A signal to this process is passed on, and after `grace_seconds` the program and what it has started are
    killed; so they are after `timeout`, which raises subprocess.TimeoutExpired. Ctrl-C reaches this process
    alone. On Linux the kernel kills the program when this process is killed.
    """
    with subprocess.Popen(
        [sys.executable, *PYTHON_ARGUMENTS, str(os.getpid()), *command],
        text=True,
        start_new_session=True,
        **options,
    ) as child:
        try:
            out, err = child.communicate(timeout=timeout)
        except BaseException as error:
            number = signals.number_of(error) if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
            with signals.ignored():
                _end(child, number, grace_seconds)
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def _end(child: "subprocess.Popen[str]", number: int, grace_seconds: float) -> None:
    """Send the signal, and kill the session of `child` when the time is over."""
    if grace_seconds:
        child.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_seconds)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()  # before it leads that session
