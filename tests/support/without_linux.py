"""Imported by every Python of an environment, takes from our code what only Linux has.

`os.sched_getaffinity` is gone, /proc can't be opened by a module of ours (libraries for Linux still read it),
and `prctl` is not found. What can't be hidden is `sys.platform`: the standard library and psutil read it too.
"""

import os
import sys
from typing import Any

OURS = ("marina", "training", "handlers")


def _hide(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "ctypes.dlsym" and arguments[1] == "prctl":
        raise AttributeError("prctl: symbol not found")
    if event == "open" and str(arguments[0]).startswith("/proc") and _caller().startswith(OURS):
        raise FileNotFoundError(arguments[0])


def _caller() -> str:
    """The module that called, its way through pathlib and the like left out."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("pathlib", "io", "_io", "codecs")):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


if hasattr(os, "sched_getaffinity"):
    del os.sched_getaffinity
sys.addaudithook(_hide)
