"""The result of a job while it is written: the answer that the request would get at once.

one instance     its answer
instances        {"predictions": [answer, ...]}, or "explanations"; an instance that is refused or fails has
{"error": {"code", "type", "message", "request_id"}} in its place
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from handlers.protocol.events import Item
from handlers.protocol.replies import Reply
from marina.engines.gateway.jobs.store import translated


class ResultFile:
    """A file that grows item by item. Its writing methods raise StorageFull, and are called one at a time."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.folder = folder
        self.count = self.errors = self.size = 0
        self.alone: Reply | None = None  # the only answer, where the request is one instance
        self._is_list, self._is_closed = True, False
        with translated(folder):
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")

    def begin(self, key: str, is_list: bool) -> None:
        """What comes first."""
        self._is_list = is_list
        if is_list:
            self._put(b'{"%ss":[' % key.encode())

    def write(self, items: Sequence[Item]) -> None:
        """Add answers, which come in their order."""
        parts = []
        for item in items:
            if self._is_list and self.count:
                parts.append(b",")
            content = item.reply.content
            parts.append(b'{"error":%s}' % content if item.reply.error and self._is_list else content)
            self.alone = None if self._is_list else item.reply
            self.count += 1
            self.errors += bool(item.reply.error)
        self._put(b"".join(parts))

    def close(self) -> None:
        """Write the end, through to the disk."""
        if self._is_list:
            self._put(b"]}")
        with translated(self.folder):
            os.fsync(self._file.fileno())
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        if not self._is_closed:
            self._is_closed = True
            with suppress(OSError):  # of a full disk, which was told
                self._file.close()

    def _put(self, content: bytes) -> None:
        with translated(self.folder):
            self._file.write(content)
            self._file.flush()
        self.size += len(content)
