"""Processes on systems other than Linux."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from marina.core import exec_with_parent, processes


def test_without_proc_a_process_is_still_told_from_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its start in seconds since the epoch."""

    def missing(path: Path, *_: Any, **__: Any) -> str:
        raise FileNotFoundError(path)

    started = psutil.Process().create_time()
    monkeypatch.setattr(Path, "read_text", missing)

    assert processes.created(os.getpid()) == started
    assert processes.find(os.getpid(), started) is not None
    assert processes.find(os.getpid(), started - 1) is None


def test_where_the_kernel_watches_no_parent_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("called"))

    exec_with_parent.exit_with_parent(os.getppid())

    with pytest.raises(SystemExit, match="has ended"):
        exec_with_parent.exit_with_parent(1 if os.getppid() != 1 else 2)
