"""Prepared records on disk: one file per data set and preprocessing, filled record by record.

A file begins with an entry per record, its length and its checksum, and has a slot per record behind them.
A record counts as written once its entry does, so a run that was killed leaves what it had prepared; what
is damaged later is prepared again. A full or read-only disk costs time, never a training. Several trainings
may share a file: they write the same bytes.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import threading
import time
import weakref
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from marina.core import paths

FORMAT = 3  # a change of the file's layout, or of what is prepared, asks for the next number
ENTRY = np.dtype([("length", "<u4"), ("checksum", "<u4")])
HEADER_BYTES = 1024  # at most, that safetensors adds to a record
LOCK_SECONDS = 10.0  # to wait for a file that another program has locked
FREE_BYTES = 2 << 30  # of the disk, which are left to others

log = logging.getLogger("marina")


class RecordCache:
    """`count` records of up to `record_bytes` each, in `cache/FOLDER/KEY.records`; `key` is all that they
    depend on.

    At most `max_bytes` lie in the folder: what was not used for longest is removed for a new file, but not
    what a training is using. Where there is no room for all records, some are not kept.
    """

    def __init__(self, folder: str, key: list[Any], count: int, record_bytes: int, max_bytes: int) -> None:
        digest = hashlib.sha256(json.dumps([FORMAT, count, *key], sort_keys=True).encode()).hexdigest()
        self.path = paths.cache() / folder / f"{digest}.records"
        self.slot_bytes = record_bytes + HEADER_BYTES
        self.start = count * ENTRY.itemsize
        self.damaged = 0
        self.entries = np.zeros(count, ENTRY)
        self.room = 0
        self._file = -1
        self._taken = 0  # records that are written, or being written
        self._is_closed = not max_bytes  # nothing more is kept
        self._lock = threading.Lock()
        if self._is_closed:
            return
        try:
            self._open(count, max_bytes)
        except OSError as error:
            self._give_up(error)

    def _open(self, count: int, max_bytes: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        weakref.finalize(self, os.close, self._file)
        self._lock_shared()  # in use: `_evict` of another training leaves it alone
        os.utime(self.path)
        stored = os.pread(self._file, self.start, 0)
        self.entries = np.frombuffer(stored.ljust(self.start, b"\0"), ENTRY).copy()
        self._taken = int((self.entries["length"] > 0).sum())
        missing = (count - self._taken) * self.slot_bytes
        _evict(self.path, max_bytes - missing)
        taken = sum(size for _, size, _ in _files(self.path.parent))
        free = shutil.disk_usage(self.path.parent).free - FREE_BYTES
        self.room = max(0, min(max_bytes - taken, free))

    def _lock_shared(self) -> None:
        """Raises OSError where somebody keeps the file for himself; `_evict` does so for an instant."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    words = f"another program has had a lock on it for {LOCK_SECONDS:g} s; end that one"
                    raise OSError(errno.EWOULDBLOCK, words, str(self.path)) from None
            time.sleep(0.05)

    @property
    def is_complete(self) -> bool:
        """Whether every record was written."""
        return bool((self.entries["length"] > 0).all())

    def get(self, row: int) -> dict[str, Tensor] | None:
        """The record, or None where it was not written or is damaged."""
        length, checksum = self.entries[row].tolist()
        if not length or self._file < 0:
            return None
        content = b""
        try:
            if length <= self.slot_bytes:
                content = os.pread(self._file, length, self.start + row * self.slot_bytes)
            if len(content) == length and zlib.crc32(content) == checksum:
                return load(content)  # type: ignore[no-any-return]
        except (OSError, SafetensorError):
            pass
        self._forget(row)
        return None

    def put(self, row: int, record: dict[str, Tensor]) -> None:
        """Write the record, if there is room for it and no other training has done so."""
        if self._is_closed or self.entries["length"][row]:
            return
        content, place = save(record), row * ENTRY.itemsize
        if not self._takes(len(content)):
            return
        entry = np.array([(len(content), zlib.crc32(content))], ENTRY)
        try:
            stored = os.pread(self._file, ENTRY.itemsize, place)
            if stored != entry.tobytes() or self.damaged:
                self._write(content, self.start + row * self.slot_bytes)
                self._write(entry.tobytes(), place)
        except OSError as error:
            self._give_up(error)
            return
        with self._lock:
            self.entries[row] = entry[0]

    def _takes(self, size: int) -> bool:
        """Whether there is room for a record, which is then its own: several threads write at once."""
        with self._lock:
            if self._is_closed:
                return False
            if size <= self.room:
                self.room -= size
                self._taken += 1
                return True
            log.warning(
                "%s is full: %d of %d are kept, the others are prepared again whenever they are needed; "
                "set a larger training.cache_gb, or free some of the disk",
                self.path.parent,
                self._taken,
                len(self.entries),
            )
            self._is_closed = True
            return False

    def _write(self, content: bytes, place: int) -> None:
        if os.pwrite(self._file, content, place) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _forget(self, row: int) -> None:
        with self._lock:
            if not self.damaged:
                log.warning("%s is damaged; what can't be read is prepared again", self.path)
            self.damaged += 1
            self._taken -= bool(self.entries["length"][row])
            self.entries["length"][row] = 0
            self.room = max(self.room, self.slot_bytes)  # its place is there already

    def _give_up(self, error: OSError) -> None:
        with self._lock:
            if not self._is_closed:
                log.warning("what is prepared is not kept in %s: %s", self.path.parent, error)
            self._is_closed = True


def _evict(own: Path, left: int) -> None:
    """Remove files beside `own`, those that were not used for longest first, until all have at most `left`
    bytes.
    """
    ranked = [(path == own or _is_used(path), time, size, path) for time, size, path in _files(own.parent)]
    for is_used, _, size, path in sorted(ranked, reverse=True):
        if is_used or size <= left:
            left -= size
        else:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """When each file was used last, and its bytes on disk: empty slots take none."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another training removes some too
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_blocks * 512, path))
    return found


def _is_used(path: Path) -> bool:
    """Whether a training has the file open."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
