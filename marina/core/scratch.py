"""Temporary folders; what a killed process left of them is removed by the next process that makes such a one.

A folder is locked by the process that made it. The kernel ends the lock with that process, however it ends,
and so tells a leftover from a folder in use. Where a folder can't be locked (NFS) nothing is removed.
"""

import glob
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from marina.core import signals

log = logging.getLogger("marina")

Remove = Callable[[Path], None]


def new_path(prefix: str, parent: Path) -> Path:
    """The path of a folder that is still to be made: known before, it is removed whenever a signal comes."""
    return parent / f"{prefix}{secrets.token_hex(6)}"


def make_locked(folder: Path) -> int:
    """Make a folder of `new_path`; returns the descriptor that locks it until it is closed."""
    while True:
        folder.mkdir(mode=0o700)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # as below
            continue
        with suppress(OSError):
            lock_descriptor(descriptor)
        if folder.exists():  # else another process took it for a leftover before it was locked
            return descriptor
        os.close(descriptor)


@contextmanager
def locked_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """A new folder in `parent` for a `with` block, which removes it."""
    folder, descriptor = new_path(prefix, parent), -1
    try:
        descriptor = make_locked(folder)
        yield folder
    finally:
        with signals.deferred():
            remove_folder(folder)
            if descriptor >= 0:
                os.close(descriptor)


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A new temporary folder for a `with` block; those that killed processes left are removed first."""
    remove_leftovers(prefix)
    with locked_folder(prefix, Path(tempfile.gettempdir())) as folder:
        yield folder


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether `folder` is one of this user's that no process has locked; then this one has, for the block."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # removed meanwhile, another user's, or no folder
        yield False
        return
    try:
        yield os.fstat(descriptor).st_uid == os.getuid() and _lock(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it; one that is gone is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(prefix: str, remove: Remove = remove_folder) -> None:
    """Remove the temporary folders of this user with `prefix` whose processes are gone, with a warning."""
    removed = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{glob.escape(prefix)}*")):
        with claimed(folder) as is_left:
            if is_left:
                remove(folder)
                removed.append(str(folder))
    if removed:
        log.warning("removed what a killed process left: %s", ", ".join(removed))


def _lock(descriptor: int) -> bool:
    try:
        return bool(lock_descriptor(descriptor, blocking=False))
    except OSError:  # a folder that can't be locked
        return False
