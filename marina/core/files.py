"""Files that several processes share: atomic writes, and locks that end with their process."""

import glob
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from marina.core.errors import CallError

log = logging.getLogger("marina")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A new path beside `path`, whose file replaces it when the block ends without an error.

    Readers see the old file or the whole new one. Missing parent folders are made; what killed processes left
    of such files is removed, with a warning.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """Remove the unfinished files of processes that are gone."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.*"):
        writer = part.name.removeprefix(f".{path.name}.").partition(".")[0]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            part.unlink(missing_ok=True)
            log.warning("removed %s, which a killed process left", part)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` with `content` in one step; text is written as UTF-8."""
    with atomic_path(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def lock_file(path: Path, message: str) -> BaseFileLock:
    """Lock `path` without waiting; the caller calls `release`, or the kernel does when the process ends.

    Child processes do not inherit the lock. Raises CallError(message) when somebody else holds it.
    """
    lock = FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise CallError(message) from None
    return lock
