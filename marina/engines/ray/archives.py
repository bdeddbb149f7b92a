"""Archives on the nodes of a cluster: the path of a folder that all of them have, or fetched from an address.

Whichever way, the file must have the checksum that the archive has in the model store of who registers it.
An address is the project's own (`ray.archives` in marina.yaml) with the name of a file of the model store;
nothing else is ever fetched, and no redirect is followed.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from handlers.protocol.errors import BrokenArchive
from marina.core import files
from marina.engines.ray.limits import FETCH_SECONDS, SILENT_SECONDS

READ_BYTES = 2**20
PLAIN = {"accept-encoding": "identity"}
FOLDER = f"marina-archives-{os.getuid()}"  # of fetched ones, in the node's folder for temporary files


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def local_archive(where: str, checksum: str) -> Path:
    """The archive `where` as a file of this node; an address is fetched, once for all replicas of the node.

    Raises BrokenArchive where it can't be had, or has another checksum.
    """
    if "://" not in where:
        path = Path(where)
        if not path.is_file():
            raise BrokenArchive(
                f"this node has no {where}: mount the model store there on every node, or have it fetched "
                "(ray.archives in marina.yaml)"
            )
        _check(path, where, checksum)
        return path
    folder = Path(tempfile.gettempdir()) / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise BrokenArchive(f"{folder} is another user's")
    path = folder / f"{checksum}-{where.rpartition('/')[2]}"
    if not (path.is_file() and sha256(path) == checksum):
        with files.atomic_path(path) as part:
            _fetch(where, part)
            _check(part, where, checksum)
    return path


def _check(path: Path, where: str, checksum: str) -> None:
    if (own := sha256(path)) != checksum:
        raise BrokenArchive(
            f"{where} has the SHA-256 {own[:12]}..., not {checksum[:12]}... as in the model store of who "
            "registers it; copy the archive there"
        )


def _fetch(url: str, path: Path) -> None:
    """Raises BrokenArchive with the reason."""
    deadline = time.monotonic() + FETCH_SECONDS
    try:
        with _parts(url) as parts, path.open("wb") as file:
            for part in parts:
                file.write(part)
                if time.monotonic() > deadline:
                    raise BrokenArchive(f"{url} had not come after {FETCH_SECONDS:.0f} s")
    except (httpx.HTTPError, OSError) as error:
        raise BrokenArchive(f"{url} can't be fetched: {error or type(error).__name__}") from error


@contextmanager
def _parts(url: str) -> Iterator[Iterator[bytes]]:
    """The content of an address, part by part."""
    if url.startswith("s3://"):
        yield _s3_parts(url)
        return
    with httpx.stream("GET", url, headers=PLAIN, timeout=SILENT_SECONDS) as response:
        if not response.is_success:
            raise BrokenArchive(f"{url} can't be fetched: {response.status_code} {response.reason_phrase}")
        yield response.iter_raw(READ_BYTES)


def _s3_parts(url: str) -> Iterator[bytes]:
    """An object of a bucket, with the credentials of the node's environment (AWS_...)."""
    try:
        from obstore import get
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise BrokenArchive(f"{url}: s3 needs an extra on every node: pip install 'marina[s3]'") from None
    folder, _, name = url.rpartition("/")
    try:
        yield from map(bytes, get(from_url(folder), name).stream(min_chunk_size=READ_BYTES))
    except BaseError as error:
        raise BrokenArchive(f"{url} can't be fetched: {str(error).strip()}") from error
