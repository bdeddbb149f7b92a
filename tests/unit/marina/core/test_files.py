"""Atomic writes and file locks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from marina.core import files
from marina.core.errors import CallError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_atomic(path, "old")

    def fail() -> None:
        with files.atomic_path(path) as part:
            part.write_text("half")
            raise RuntimeError(path.read_text())

    with pytest.raises(RuntimeError, match="old"):
        fail()

    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    files.write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    return int(subprocess.check_output(["sh", "-c", "umask"], text=True), 8)


HOLDER = """
import subprocess, sys
from pathlib import Path
from marina.core.files import lock_file
lock = lock_file(Path(sys.argv[1]), "")
print(subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL).pid, flush=True)
input()
"""


def test_a_lock_has_one_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    """The holder's child lives on and has not inherited it."""
    path = tmp_path / "lock"
    call = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        child = int(holder.stdout.readline())

        with pytest.raises(CallError, match="taken"):
            files.lock_file(path, "taken")
        holder.kill()
    try:
        files.lock_file(path, "taken").release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    lock = files.lock_file(tmp_path / "lock", "taken")

    with pytest.raises(CallError, match="taken"):
        files.lock_file(tmp_path / "lock", "taken")

    lock.release()


def test_what_a_killed_process_left_is_removed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, dead = tmp_path / "a.json", subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".a.json.{dead.pid}.0123"
    others = [tmp_path / f".a.json.{os.getpid()}.0123", tmp_path / f".b.json.{dead.pid}.0123"]
    for file in (left, *others):
        file.touch()

    files.write_atomic(path, "new")

    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
    assert caplog.messages == [f"removed {left}, which a killed process left"]
