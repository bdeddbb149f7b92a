"""Skips a runtime that ended a worker's start: it leaves a marker, and the next start uses the next runtime.

While a runtime is loaded and answers the golden samples, a small file in the folder for temporary files names
it, this process and the process that started it. A marker whose process is gone while its parent, the server,
lives on means that the runtime ended the start: by a crash, by a hang that was cut short, or by taking all of
the memory. It counts for an hour, because a worker may have been stopped in that moment. Nothing is guarded
where the folder can't be written.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

logger = logging.getLogger(__name__)

MARKER_SECONDS = 3600


class StartGuard:
    """The markers of one runtime of one export, identified by the checksum and the entry in runtime.json."""

    def __init__(self, checksum: str, entry: Mapping[str, Any]) -> None:
        identity = json.dumps([checksum, entry], sort_keys=True)
        self.key = hashlib.sha256(identity.encode()).hexdigest()[:16]

    def ended_start(self) -> bool:
        """Whether the runtime ended a start of this server's workers within the last hour.

        Markers that have expired, or whose server is gone, are removed.
        """
        ended = False
        for path in find_markers(self.key):
            with suppress(OSError, ValueError, TypeError):  # another worker is removing or writing its marker
                worker, server = json.loads(path.read_text(encoding="ascii"))
                if _is_running(*worker):
                    continue
                if _is_running(*server) and time.time() - path.stat().st_mtime < MARKER_SECONDS:
                    ended = True
                else:
                    path.unlink()
        return ended

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Blame the runtime if the process ends inside the block."""
        path = self._write()
        try:
            yield
        finally:
            if path:
                with suppress(OSError):
                    path.unlink()

    def _write(self) -> Path | None:
        process = psutil.Process()
        try:
            folder = _folder()
            folder.mkdir(mode=0o700, exist_ok=True)
            path = folder / f"{self.key}.{process.pid}"
            path.unlink(missing_ok=True)  # of an earlier process with the same id
            with path.open("x", encoding="ascii") as file:
                json.dump([_identity(process), _identity(process.parent())], file)
        except (OSError, psutil.Error) as error:
            logger.debug("starts aren't guarded: %s", error)
            return None
        return path


def find_markers(key: str) -> list[Path]:
    """The markers of a guard; none if the folder belongs to another user."""
    folder = _folder()
    try:
        return sorted(folder.glob(f"{key}.*")) if folder.stat().st_uid == os.getuid() else []
    except OSError:
        return []


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"marina-starts-{os.getuid()}"


def _identity(process: psutil.Process | None) -> tuple[int, float]:
    """A process's id and start time: ids are reused."""
    return (process.pid, process.create_time()) if process else (0, 0.0)


def _is_running(pid: int, start: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - start) < 0.1 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
