"""What is read from Linux's /proc, and the fallback elsewhere."""

import os
from pathlib import Path

import psutil
import pytest

from handlers.runtime import machine
from marina.core import paths

LINUX_ONLY = ("sched_getaffinity", '"/proc', "prctl(")
PLACES = {"handlers/runtime/machine.py", "marina/core/exec_with_parent.py", "marina/core/processes.py"}


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 10)

    assert machine.usable_cores() == 10


def test_without_cpuinfo_there_are_no_instructions_but_a_name(tmp_path: Path) -> None:
    assert machine.processor_instructions(tmp_path / "none") == set()
    assert machine.processor_name(tmp_path / "none")


def test_a_name_is_read_where_linux_writes_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Processor 9000\nflags\t: avx2\n")

    assert machine.processor_name(tmp_path / "cpuinfo") == "A Processor 9000"


def test_what_only_linux_has_is_called_in_one_module_per_side() -> None:
    """One in handlers, and in the tool the two that know processes."""
    found = set()
    for folder in ("handlers", "marina", "training"):
        for file in (paths.SOURCE / folder).rglob("*.py"):
            if any(word in file.read_text(encoding="utf-8") for word in LINUX_ONLY):
                found.add(file.relative_to(paths.SOURCE).as_posix())

    assert found == PLACES
