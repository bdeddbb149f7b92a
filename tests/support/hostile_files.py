"""Files that nobody should hand to a command, each under a name that says what is wrong with it."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "blanks": b" \n\t\n",
    "nul bytes": bytes(2000),
    "every byte": bytes(range(256)) * 20,
    "latin-1": "# Größe: é\nkind: classifier\n".encode("latin-1"),
    "utf-16": "# Reads.\nkind: policy\n".encode("utf-16"),
    "a byte-order mark": b"\xef\xbb\xbf{}",
    "half a JSON": b'{"observation": [1, 2',
    "deep JSON": b"[" * 100_000,
    "deep keys": b'{"a":' * 20_000,
    "large numbers": b'{"observation": [1e999, -1e999, NaN, 99999999999999999999999999]}',
    "a huge number": b'{"observation": ' + b"9" * 10_000 + b"}",
    "JSON of a text": b'"text"',
    "JSON of nothing": b"null",
    "half a YAML": b"# Reads.\nkind: [classifier\n",
    "a tab in YAML": b"# Reads.\nkind:\n\t- x\n",
    "a YAML of another's object": b"# Reads.\nkind: !!python/object/apply:os.getcwd []\n",
    "a YAML of many lists": b"# Reads.\na: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        f"{k}: &{k} [{', '.join(['*' + p] * 9)}]\n".encode()
        for p, k in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "a YAML in itself": b"# Reads.\nkind: &a [*a]\ntraining: &b {recipe: *b}\n",
    "a YAML with keys of lists": b"# Reads.\n? [a]\n: b\n",
    "a YAML of numbers": b"# Reads.\n1: 2\nkind: 3\ntraining: 4\n",
    "two YAML documents": b"# Reads.\nkind: policy\n---\nkind: policy\n",
    "a wrong date": b"# Reads.\nkind: 2020-99-99\n",
    "a list": b"# Reads.\n- kind\n",
    "half a PNG": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR\0\0",
    "half a zip": b"PK\x03\x04" + bytes(50),
    "a pickle": pickle.dumps({"a": [1, 2]}),
    "a program": b"#!/bin/sh\nexit 3\n",
    "a Python file that fails": b"raise RuntimeError('as meant')\n",
    "a Python file that exits": b"import sys\nsys.exit(0)\n",
    "a Python file with an error": b"def f(:\n",
}


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip of these members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


TEXTS |= {
    "an empty zip": zipped({}),
    "a zip of rubbish": zipped(
        {"spec.yaml": b"\xff\xfe", "SHA256SUMS": b"x", "policy.pth": b"x", "data": b"{"}
    ),
    "a zip that leads out": zipped({"../../out": b"x", "/spec.yaml": b"x"}),
}


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 300_000_000)


def _unreadable(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "file.json").write_text("{")


OTHERS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": Path.mkdir,
    "a folder with a file": _full_folder,
    "unreadable": _unreadable,  # not for root
    "huge": _sparse,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


def write(name: str, path: Path) -> Path:
    """The hostile file `name`, at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if name in TEXTS:
        path.write_bytes(TEXTS[name])
    else:
        OTHERS[name](path)
    return path


NAMES = (*TEXTS, *OTHERS)
