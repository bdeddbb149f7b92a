"""A file inside an archive that is not unpacked: read where it lies, when it is needed."""

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple


class FileStat(NamedTuple):
    """Size in bytes, and when it was changed."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True)
class PackedFile:
    """`size` bytes of `archive` from `offset` on, under the path `member` that they have in it.

    It has the methods of a `Path` that a reader of data needs.
    """

    archive: Path
    member: str
    offset: int
    size: int

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> PurePosixPath:
        """The archive as if it was a folder."""
        return PurePosixPath(self.archive.as_posix(), self.member)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name

    @property
    def parts(self) -> tuple[str, ...]:
        """Of its path."""
        return self.path.parts

    @property
    def suffix(self) -> str:
        """Of its name."""
        return self.path.suffix

    @property
    def parent(self) -> PurePosixPath:
        """Where it lies in the archive."""
        return self.path.parent

    def read_bytes(self) -> bytes:
        """Its content. Raises OSError where the archive is cut off."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.archive.name} is cut off")
        return content

    def open(self, mode: str = "rb") -> BinaryIO:
        """Its content as a file."""
        return io.BytesIO(self.read_bytes())

    def stat(self) -> FileStat:
        """Its size, and the time of the archive."""
        return FileStat(self.size, self.archive.stat().st_mtime_ns)

    def is_dir(self) -> bool:
        """It never is."""
        return False

    def is_relative_to(self, folder: Path) -> bool:
        """Whether its archive lies there."""
        return self.archive.is_relative_to(folder)

    def relative_to(self, folder: Path) -> PurePosixPath:
        """Its place in `folder`."""
        return self.path.relative_to(folder.as_posix())


DataFile = Path | PackedFile
