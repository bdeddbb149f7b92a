"""Zip files of others: what they unpack to is looked at before anything is unpacked."""

import io
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from marina.core.errors import CallError

UNPACKED_BYTES, MOST_PACKED = 256 << 20, 20  # that any zip may unpack to; times its size for larger ones
MAX_MEMBERS = 100_000  # files
# what zipfile raises at a damaged file, at one that is missing in it, and at packings that it doesn't know
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, KeyError, ValueError, OSError, EOFError, NotImplementedError),
)


def check_unpacked_size(content: Path | bytes, name: str, most_packed: int = MOST_PACKED) -> None:
    """Raise CallError for a zip that unpacks to far more than it is; other files pass."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(UNPACKED_BYTES, most_packed * packed):
        raise CallError(
            f"{name} unpacks to {unpacked / 1e6:,.0f} MB from {packed / 1e6:,.1f} MB; at most {most_packed} "
            f"times its size is taken, or {UNPACKED_BYTES / 1e6:,.0f} MB; save it again"
        )
    if len(members) > MAX_MEMBERS:
        raise CallError(
            f"{name} has {len(members):,} files; at most {MAX_MEMBERS:,} are taken; save it again"
        )


def check_members(archive: zipfile.ZipFile, name: str) -> None:
    """Raise CallError for a zip with two files of one name, or with one outside of its folder."""
    seen: set[str] = set()
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise CallError(f"{name} has a file outside of its folder: {entry.filename!r}; build it again")
        if entry.filename in seen:
            raise CallError(f"{name} has two files {entry.filename!r}; build it again")
        seen.add(entry.filename)
