"""Files of text as a data set brings them: unpacked, decoded, and named with what is wrong with them."""

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from marina.core.errors import CallError

Found = TypeVar("Found")
PACKED = (".gz", ".xz")
MOST_BYTES = 1 << 30  # of one file, unpacked
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
GUESSES = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def form_of(path: Path) -> str:
    """The suffix of a file, in lower case, without that of its packing: .jsonl for mail.jsonl.xz."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


def opened(path: Path) -> IO[bytes]:
    """The content of a file, unpacked while it is read."""
    packed: dict[str, Any] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
    make = packed.get(path.suffix.lower())
    return make(path) if make else path.open("rb")  # type: ignore[no-any-return]


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The content of a file, unpacked, a byte-order mark taken off.

    Raises CallError for one that can't be read, of more than MOST_BYTES, and for bytes that are not in the
    encoding, with the place of the first one and what it may be instead.
    """
    try:
        with opened(path) as file:
            content = file.read(MOST_BYTES + 1)
    except UNREADABLE as error:
        raise CallError(f"{path} can't be read: {error}") from error
    if len(content) > MOST_BYTES:
        raise CallError(f"{path} has more than {MOST_BYTES:,} bytes; split it, one file per split")
    try:
        return str(content, encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CallError(
            f"{path} is not {encoding}: byte {content[error.start]:#04x} in line {line:,}; it may be "
            f"{_guess(content)}: set training.encoding"
        ) from error
    except LookupError as error:
        raise CallError(f"training.encoding: there is no encoding {encoding!r}") from error


def json_lines(path: Path, fields: Callable[[Any], Found], layout: str) -> Iterator[tuple[int, Found]]:
    """(line from 1, what `fields` takes of its JSON) of all lines that are not empty.

    Raises CallError with the line where it is no JSON or lacks what is taken; `layout` says what it should
    be.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = fields(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CallError(f"{path}, line {number}: {error!r} in its JSON; {layout}") from error
        yield number, found


def _guess(content: bytes) -> str:
    return GUESSES.get(content[:2], "utf-16" if b"\0" in content[:200] else "cp1252 or iso-8859-1")
