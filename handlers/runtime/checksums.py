"""SHA256SUMS of a folder: written last by the export and the archive, verified by the worker before anything
is loaded.

The format is that of `sha256sum`, so that `sha256sum -c SHA256SUMS` checks a folder without us.
"""

import hashlib
from pathlib import Path

from ..protocol.errors import BrokenArchive

NAME = "SHA256SUMS"


def write_checksums(folder: Path) -> Path:
    """Write SHA256SUMS over all files below `folder`, in sorted order; returns its path."""
    lines = [f"{file_digest(folder / name)}  {name}\n" for name in _files(folder)]
    path = folder / NAME
    path.write_text("".join(lines), encoding="utf-8")
    return path


def verify_checksums(folder: Path, ignored: tuple[str, ...] = ()) -> int:
    """Check every file of `folder` against its SHA256SUMS and return how many there are.

    `ignored` names folders whose contents are not covered. Raises BrokenArchive with the name of the first
    file that is missing, changed, or present without being listed.
    """
    path = folder / NAME
    if not path.is_file():
        raise BrokenArchive(f"{NAME} is missing: the archive is incomplete; build it again")
    expected = listed_digests(path)
    present = {name for name in _files(folder) if name.split("/")[0] not in ignored}
    for name in sorted(expected.keys() | present):
        if name not in present:
            raise BrokenArchive(f"{name} is missing; build the archive again")
        if name not in expected:
            raise BrokenArchive(f"{name} is not listed in {NAME}: somebody added it; build the archive again")
        if file_digest(folder / name) != expected[name]:
            raise BrokenArchive(f"{name} was changed after the archive was built; build it again")
    return len(expected)


def listed_digests(path: Path) -> dict[str, str]:
    """Name -> digest, of the lines of a SHA256SUMS."""
    lines = [line.partition("  ") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return {name: digest for digest, _, name in lines}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[str]:
    """All files below, as sorted POSIX paths; byte code is left out, since Python writes it beside what it
    imports.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.name != NAME and "__pycache__" not in path.parts)
