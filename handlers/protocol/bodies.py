"""Bodies: from what the engine hands over - bytes, text, JSON that is parsed already - to the payload, its
compression and byte-order mark taken off, and the tensor data behind it.
"""

import codecs
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from .errors import BadRequest, NotSupported, TooLarge
from .kserve import BINARY_HEADER, split_binary

ENCODING = "content-encoding"
MAX_UNPACKED_BYTES = 20_000_000  # of a compressed body; as much as TorchServe takes of one that is not
MAX_MEMBERS = 100  # of a gzip file; empty ones would cost a turn each
AUTOMATIC, RAW = zlib.MAX_WBITS | 32, -zlib.MAX_WBITS  # zlib's or gzip's header, or none
MARKS = {  # the longer ones first: UTF-32's begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]{1,40})", re.IGNORECASE)
NO_ENCODINGS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})
UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")
MARKED = frozenset(mark[:1] for mark in MARKS)


def read_body(payload: Any, headers: Mapping[str, str], takes_text: bool = False) -> tuple[Any, bytes]:
    """The payload, JSON parsed, and the tensor data behind it. For a kind that `takes_text` a body that only
    begins like JSON, and doesn't come as such, is text.

    TorchServe hands JSON over as bytes where it is compressed, broken or comes without its content type, and
    as text where it came as text/plain. Raises a RequestError for a body that isn't what its headers say.
    """
    if isinstance(payload, dict | list) and ENCODING not in headers:  # the common case
        return payload, b""
    if isinstance(payload, bytearray):
        payload = bytes(payload)
    if ENCODING in headers:
        payload = unpacked(payload, headers[ENCODING])
    binary = b""
    if isinstance(payload, bytes) and BINARY_HEADER in headers:
        payload, binary = split_binary(payload, headers[BINARY_HEADER])
    if takes_text and isinstance(payload, bytes | str):
        return text_or_json(payload, headers.get("content-type", "")), binary
    payload = _without_mark(payload)
    if isinstance(payload, bytes | str) and payload[:100].lstrip()[:1] in (b"{", b"[", "{", "["):
        try:
            payload = json.loads(payload)
        except (ValueError, RecursionError):
            raise broken_json() from None
    return payload, binary


def text_or_json(payload: bytes | str, content_type: str) -> Any:
    """JSON that was meant as such, else the text, decoded where its content type names the encoding.

    Raises BadRequest for broken JSON that comes as JSON, and for bytes that are not in the named encoding.
    """
    mime_type, _, parameters = content_type.partition(";")
    is_json = mime_type.strip().lower() == "application/json"
    if is_json and isinstance(payload, str):
        return payload  # the engine has parsed it
    charset = CHARSET.search(parameters)
    if charset and not is_json and charset[1].lower() not in UTF8:
        # the engine decodes text that happens to be UTF-8
        payload = _decoded(payload.encode() if isinstance(payload, str) else payload, charset[1])
    payload = _without_mark(payload)
    if is_json or payload[:100].lstrip()[:1] in (b"{", b"[", "{", "["):
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            if is_json:
                raise broken_json() from None
    return payload


def _decoded(payload: bytes, charset: str) -> str:
    """The text, of an encoding that texts are kept in. A codec of Python that compresses, or whose time grows
    with the square of the length (punycode: a minute for 600 kB), is none.
    """
    try:
        if codecs.lookup(charset).name in NO_ENCODINGS:
            raise LookupError
        return payload.decode(charset).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the text is not {charset}, which its Content-Type says: the byte "
            f"{payload[error.start]:#04x} at position {error.start:,} has no meaning there"
        ) from None
    except (LookupError, ValueError):
        raise BadRequest(
            f"the Content-Type names the encoding {charset!r}, which there isn't; send UTF-8"
        ) from None


def broken_json() -> BadRequest:
    """The refusal of a body that begins as JSON and is none."""
    return BadRequest("the body looks like JSON but can't be parsed; check it with a JSON validator")


def _without_mark(payload: Any) -> Any:
    """Text that has a byte-order mark in front, without it; all else as it is."""
    if isinstance(payload, str):
        return payload.removeprefix("\ufeff")
    if not isinstance(payload, bytes) or payload[:1] not in MARKED:
        return payload
    encoding = next((name for mark, name in MARKS.items() if payload.startswith(mark)), None)
    if encoding is None:
        return payload
    try:
        return payload.decode(encoding)
    except UnicodeDecodeError:
        raise BadRequest(f"the body begins as {encoding} text but isn't; send UTF-8") from None


def unpacked(payload: Any, content_encoding: str, most: int = MAX_UNPACKED_BYTES) -> Any:
    """A body without the compression that its header names.

    Raises NotSupported for an unknown one, BadRequest for a body that is not compressed so, and TooLarge for
    one of more than `most` bytes.
    """
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return payload
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise NotSupported(
            f"the body's Content-Encoding {encoding[:40]!r} is not taken; send it as it is, or with gzip or "
            "deflate"
        )
    broken = BadRequest(
        f"the body is not {encoding}, which its header Content-Encoding says, or it is damaged or cut off; a "
        "form can't be compressed"
    )
    if not isinstance(payload, bytes):
        raise broken
    windows = (AUTOMATIC, RAW) if encoding == "deflate" else (AUTOMATIC,)
    for window in windows:
        try:
            return _inflated(payload, window, most)
        except (zlib.error, EOFError):
            continue
    raise broken


def _inflated(packed: bytes, window: int, most: int) -> bytes:
    """All members of a compressed body together. Raises zlib.error, EOFError where it is cut off, and
    TooLarge.
    """
    parts, left = [], most
    for _ in range(MAX_MEMBERS):
        reader = zlib.decompressobj(window)
        parts.append(reader.decompress(packed, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise TooLarge(f"the body unpacks to more than {most:,} bytes; send at most so many")
        if not reader.eof:
            raise EOFError
        packed = reader.unused_data
        if not packed.strip(b"\0"):  # padding, as tapes have it
            return b"".join(parts)
    raise TooLarge(f"the body is made of more than {MAX_MEMBERS} compressed pieces; send one")
