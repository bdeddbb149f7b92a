"""Requests that must be refused, each by its name, with the status and the type that it gets; and good ones to go among them.

A bug that is found becomes one line in one of the lists below: a name, what is sent, and what comes back where that is not
400 NotUnderstood. `bad(kind)` and `good(kind)` are what the tests send; `row_of` is what TorchServe makes of a request.
Everything is made here: there are no data files.
"""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image, ImageDraw

ALL = frozenset({"classifier", "detector", "segmenter", "policy", "video_classifier"})
CLASSIFIER, DETECTOR, SEGMENTER, POLICY = (frozenset({kind}) for kind in ("classifier", "detector", "segmenter", "policy"))
VIDEO = frozenset({"video_classifier"})
IMAGES = CLASSIFIER | DETECTOR | SEGMENTER

JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
MULTIPART = ("Content-Type", "multipart/form-data; boundary=B")
BINARY = "Inference-Header-Content-Length"

Headers = tuple[tuple[str, str], ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part of a multipart body; `content_type` makes it a file."""

    name: str
    content: bytes
    content_type: str | None = None


@dataclass(frozen=True)
class Sent:
    """One request: what is sent, and to which kinds of model."""

    name: str
    body: bytes = b""
    headers: Headers = ()
    kinds: frozenset[str] = ALL
    parts: tuple[Part, ...] = ()
    method: str = "POST"
    path: str = "predictions"  # or "explanations"

    def content(self) -> tuple[bytes, Headers]:
        """Body and headers as they go over the wire, but for the length."""
        return (multipart(self.parts), (MULTIPART, *self.headers)) if self.parts else (self.body, self.headers)


@dataclass(frozen=True)
class Bad(Sent):
    """A request that is refused. `in_front` where TorchServe itself refuses it, before any worker: `type` is then its own, and
    empty where it answers without a body.
    """

    status: int = 400
    type: str = "NotUnderstood"
    in_front: bool = False
    row: Row | None = None  # what TorchServe makes of the body, where `row_of` doesn't know


def row_of(sent: Sent) -> tuple[Row, dict[str, Any]]:
    """(fields, headers) as TorchServe's front end and its worker hand them to a handler.

    As observed on TorchServe 0.12: JSON is parsed where its content type is exactly application/json, text/... is decoded, both
    stay bytes where that fails; a form's part is a field; a file without a type is an octet stream; a header of several is the
    last; "explain" is the path's, whatever was sent; and each field has an entry of its own among the headers.
    """
    content_type = dict(sent.headers).get("Content-Type", "")
    if isinstance(sent, Bad) and sent.row is not None:
        row, types = sent.row, {}
    elif sent.parts:
        row = {part.name: _value(part.content, part.content_type or "") for part in sent.parts}
        types = {part.name: part.content_type or "" for part in sent.parts}
    elif content_type == FORM[1]:
        row = {name: bytearray(value.encode()) for name, value in parse_qsl(sent.body.decode())}
        types = dict.fromkeys(row, "")
    else:
        plain = content_type.split(";")[0]
        row, types = {"body": _value(sent.body, plain)}, {"body": plain}
    own = {name: {"content-type": kind} for name, kind in types.items()}
    return row, {**own, "explain": str(sent.path == "explanations"), **dict(sent.headers), "url_path": ""}


def _value(content: bytes, content_type: str) -> Any:
    try:
        if content_type == "application/json":
            return json.loads(content.decode())
        if content_type.startswith("text"):
            return content.decode()
    except (ValueError, RecursionError):
        pass
    return bytearray(content)


def multipart(parts: tuple[Part, ...]) -> bytes:
    """A form with the boundary B."""
    return b"".join(_part(part) for part in parts) + b"--B--\r\n"


def _part(part: Part) -> bytes:
    file = f'; filename="x"\r\nContent-Type: {part.content_type}' if part.content_type else ""
    return f'--B\r\nContent-Disposition: form-data; name="{part.name}"{file}\r\n\r\n'.encode() + part.content + b"\r\n"


# --- pictures ---------------------------------------------------------------------------------------------------------------


def drawn(width: int = 48, height: int = 48, mode: str = "RGB") -> Image.Image:
    """A seven, dark on light."""
    image = Image.new("RGB", (width, height), (250, 248, 240))
    points = [(0.28, 0.24), (0.7, 0.24), (0.62, 0.42), (0.5, 0.6), (0.43, 0.78)]
    ImageDraw.Draw(image).line([(x * width, y * height) for x, y in points], fill=(20, 20, 60), width=max(1, height // 12), joint="curve")
    return image if mode == "RGB" else image.convert(mode)


def encoded(image: Image.Image, form: str, **more: Any) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def clip(form: str = "GIF", count: int = 6, **more: Any) -> bytes:
    """An animated picture of a seven that turns."""
    first, *others = [drawn(20, 16).rotate(12 * index, fillcolor="white") for index in range(count)]
    return encoded(first, form, save_all=True, append_images=others, **more)


def chunk(name: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int = 8, height: int = 8, depth: int = 8, colours: int = 0, data: bytes | None = None, before: bytes = b"") -> bytes:
    """A PNG with these values in its header, whether they make sense or not; black by default. `before`: chunks before its data."""
    data = zlib.compress(bytes(9 * 8)) if data is None else data
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """`count` bytes of nothing, deflated a thousandfold."""
    deflate = zlib.compressobj(9)
    return b"".join(deflate.compress(bytes(min(1 << 20, count - start))) for start in range(0, count, 1 << 20)) + deflate.flush()


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = b"", header: int = 40) -> bytes:
    """A BMP with these values in its header."""
    colours = 1 << bits if bits <= 8 else 0
    start = 54 + 4 * colours
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data), 0, 0, colours, colours)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + bytes(4 * colours) + data


def tiff(tags: dict[int, tuple[int, ...]], data: bytes = b"", directory: int = 8) -> bytes:
    """A TIFF whose one directory has these tags, all LONG; DATA_AT stands for the place of `data`."""
    long = {tag: values for tag, values in tags.items() if len(values) > 1}
    end = 8 + 2 + 12 * len(tags) + 4
    places, start = {}, end
    for tag, values in long.items():
        places[tag], start = start, start + 4 * len(values)
    rows = []
    for tag, values in sorted(tags.items()):
        value = places[tag] if tag in long else start if values == (DATA_AT,) else values[0]
        rows.append(struct.pack("<HHII", tag, 4, len(values), value))
    arrays = b"".join(struct.pack(f"<{len(values)}I", *values) for values in long.values())
    return b"II*\0" + struct.pack("<I", directory) + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4) + arrays + data


DATA_AT = -1
WIDTH, HEIGHT, DEPTH, COMPRESSION, PHOTOMETRIC, STRIPS, ROWS, COUNTS = 256, 257, 258, 259, 262, 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_COUNTS = 322, 323, 324, 325
GREY_TIFF = {WIDTH: (8,), HEIGHT: (8,), DEPTH: (8,), COMPRESSION: (1,), PHOTOMETRIC: (1,), STRIPS: (DATA_AT,), ROWS: (8,), COUNTS: (64,)}


def tiled(side: int) -> bytes:
    """A TIFF of 8 x 8 pixels in one deflated tile of `side` x `side`."""
    data = zeros(64)
    plain = {tag: values for tag, values in GREY_TIFF.items() if tag not in (STRIPS, ROWS, COUNTS)}
    more = {COMPRESSION: (8,), TILE_WIDTH: (side,), TILE_HEIGHT: (side,), TILES: (DATA_AT,), TILE_COUNTS: (len(data),)}
    return tiff({**plain, **more}, data)


def gif(width: int = 8, height: int = 8, before: bytes = b"", frame: tuple[int, int, int, int] = (0, 0, 8, 8), bits: int = 2) -> bytes:
    """A GIF of one frame of four colours; `before`: blocks before it."""
    screen = struct.pack("<HHBBB", width, height, 0x81, 0, 0) + bytes(range(12))
    return b"GIF89a" + screen + before + b"," + struct.pack("<HHHH", *frame) + b"\0" + bytes([bits]) + b"\5\x84\x8f\xa9\xcb\xed\0;"


def scans(count: int, side: int) -> bytes:
    """A JPEG that paints the whole of side x side pixels `count` times, with ten bytes each."""
    frame = struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\1\x11\0"
    tables = b"".join(b"\xff\xc4" + struct.pack(">H", 20) + kind + bytes([1, *[0] * 15, 0]) for kind in (b"\0", b"\x10"))
    quantization = b"\xff\xdb\0\x43\0" + bytes([1] * 64)
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    return b"\xff\xd8" + quantization + b"\xff\xc0" + frame + tables + scan * count + b"\xff\xd9"


def segments(segment: bytes, count: int) -> bytes:
    """A JPEG with `count` of these segments in front."""
    whole = encoded(drawn(), "JPEG")
    return whole[:2] + segment * count + whole[2:]


def exif(content: bytes) -> bytes:
    """A JPEG with this as its EXIF."""
    return segments(b"\xff\xe1" + struct.pack(">H", len(content) + 8) + b"Exif\0\0" + content, 1)


def webp(name: bytes, content: bytes, size: int | None = None) -> bytes:
    """A WebP of one chunk; `size` is what its container says."""
    body = b"WEBP" + name + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def float_tiff(value: float) -> bytes:
    """A TIFF of floats, one of which is `value`."""
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[3, 3] = value
    return encoded(Image.fromarray(values), "TIFF")


CANT_BE_READ: dict[str, Callable[[], bytes]] = {
    "words": lambda: b"hello",
    "one byte": lambda: b"\x89",
    "zero bytes": lambda: bytes(1000),
    "PNG's signature alone": lambda: b"\x89PNG\r\n\x1a\n",
    "JPEG's first bytes": lambda: b"\xff\xd8\xff",
    "GIF's first bytes": lambda: b"GIF89a",
    "WebP's first bytes": lambda: b"RIFF\x20\0\0\0WEBP",
    "TIFF's first bytes": lambda: b"II*\0",
    "BMP's first bytes": lambda: b"BM",
    "JPEG cut in its header": lambda: encoded(drawn(), "JPEG")[:100],
    "JPEG cut in its picture": lambda: encoded(drawn(), "JPEG")[:700],
    "progressive JPEG cut in its first scan": lambda: encoded(drawn(), "JPEG", progressive=True)[:450],
    "JPEG of no rows": lambda: encoded(drawn(), "JPEG").replace(b"\xff\xc0\0\x11\x08\0\x30", b"\xff\xc0\0\x11\x08\0\0"),
    "JPEG without tables": lambda: encoded(drawn(), "JPEG").replace(b"\xff\xdb", b"\xff\xfe"),
    "JPEG of twelve bits": lambda: encoded(drawn(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "JPEG of seven components": lambda: scans(1, 8).replace(b"\0\x08\0\x08\1\1\x11\0", b"\0\x08\0\x08\7\1\x11\0"),
    "PNG cut in its header": lambda: encoded(drawn(), "PNG")[:20],
    "PNG cut in its picture": lambda: encoded(drawn(), "PNG")[:150],
    "PNG of no width": lambda: png(0, 8),
    "PNG of three bits": lambda: png(depth=3),
    "PNG of unknown colours": lambda: png(colours=7),
    "PNG of indices without a palette's data": lambda: png(depth=16, colours=3),
    "PNG whose data is not deflated": lambda: png(data=b"no zlib stream at all"),
    "PNG without data": lambda: png(data=b""),
    "PNG with less data than it declares": lambda: png(64, 64, data=zeros(100)),
    "PNG with a wrong checksum in its header": lambda: encoded(drawn(), "PNG")[:29] + bytes(4) + encoded(drawn(), "PNG")[33:],
    "PNG whose text expands hugely": lambda: png(before=chunk(b"zTXt", b"a\0\0" + zeros(100_000_000))),
    "GIF without a frame": lambda: b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";",
    "GIF of no size": lambda: gif(0, 0, frame=(0, 0, 0, 0)),
    "GIF with less data than its frame": lambda: gif(frame=(0, 0, 600, 600)),
    "GIF of a wrong code size": lambda: gif(bits=200),
    "GIF cut in its picture": lambda: encoded(drawn(), "GIF")[:-40],
    "GIF of comments alone": lambda: gif(before=b"!\xfe\1a\0" * 9)[:-30],
    "BMP of no size": lambda: bmp(0, 0),
    "BMP of seven bits": lambda: bmp(8, 8, bits=7, data=bytes(64)),
    "BMP with another header's length": lambda: bmp(8, 8, data=bytes(192), header=41),
    "BMP of unknown compression": lambda: bmp(8, 8, compression=9, data=bytes(192)),
    "BMP cut in its picture": lambda: encoded(drawn(), "BMP")[:2000],
    "BMP, run-length encoded": lambda: bmp(8, 8, bits=8, compression=1, data=b"\x08\1\0\0" * 8 + b"\0\1"),
    "BMP, run-length encoded, of very many empty rows": lambda: bmp(7000, 7000, bits=8, compression=1, data=b"\1\0\0\0" * 7000),
    "TIFF whose directory is outside": lambda: tiff(GREY_TIFF, bytes(64), directory=1 << 30),
    "TIFF without a size": lambda: tiff({tag: values for tag, values in GREY_TIFF.items() if tag > HEIGHT}, bytes(64)),
    "TIFF of no size": lambda: tiff({**GREY_TIFF, WIDTH: (0,)}, bytes(64)),
    "TIFF without a picture": lambda: tiff({tag: values for tag, values in GREY_TIFF.items() if tag < STRIPS}, bytes(64)),
    "TIFF of unknown compression": lambda: tiff({**GREY_TIFF, COMPRESSION: (9999,)}, bytes(64)),
    "TIFF whose strips are outside": lambda: tiff({**GREY_TIFF, STRIPS: (1 << 30,)}, bytes(64)),
    "TIFF whose deflated strip is not": lambda: tiff({**GREY_TIFF, COMPRESSION: (8,)}, b"no zlib" * 10),
    "TIFF cut in its picture": lambda: encoded(drawn(), "TIFF")[:600],
    "TIFF of floats with NaN": lambda: float_tiff(float("nan")),
    "TIFF of floats with infinity": lambda: float_tiff(float("inf")),
    "WebP cut in its picture": lambda: encoded(drawn(), "WEBP")[:100],
    "WebP of a canvas without a frame": lambda: webp(b"VP8X", bytes([2, 0, 0, 0]) + b"\x07\0\0\x07\0\0"),
    "WebP of rubbish": lambda: webp(b"VP8 ", bytes(100)),
    "WebP with a lying size": lambda: webp(b"VP8L", b"\x2f" + bytes(30), size=1 << 31),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>',
    "SVG with an entity": lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
    "ICO": lambda: encoded(drawn(), "ICO", sizes=[(32, 32)]),
    "PPM": lambda: encoded(drawn(), "PPM"),
    "TGA": lambda: encoded(drawn(), "TGA"),
    "PCX": lambda: encoded(drawn(), "PCX"),
    "DDS": lambda: encoded(drawn(), "DDS"),
    "PDF": lambda: encoded(drawn(), "PDF"),
    "EPS": lambda: encoded(drawn(), "EPS"),
    "PSD": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(300),
    "JPEG 2000": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200),
    "JPEG XL": lambda: b"\xff\x0a" + bytes(200),
    "AVIF": lambda: b"\0\0\0\x20ftypavif" + bytes(200),
    "HEIC": lambda: b"\0\0\0\x20ftypheic" + bytes(200),
    "a video": lambda: b"\0\0\0\x20ftypisom" + bytes(200),
    "an archive": lambda: b"PK\3\4" + bytes(200),
    "a PNG, zipped": lambda: zlib.compress(encoded(drawn(), "PNG")),
    "base64 as the body": lambda: base64.b64encode(encoded(drawn(), "PNG")),
    "a data URL as the body": lambda: b"data:image/png;base64," + base64.b64encode(encoded(drawn(), "PNG")),
    "PNG with a byte in front": lambda: b"\n" + encoded(drawn(), "PNG"),
}
TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "PNG of 50,000 x 50,000 pixels": lambda: png(50_000, 50_000, colours=2),
    "PNG of 10,000 x 10,000 pixels": lambda: png(10_000, 10_000),
    "PNG of as many pixels as can be said": lambda: png((1 << 31) - 1, (1 << 31) - 1),
    "PNG one row too long": lambda: png(65_536, 1, data=zeros(65_537)),
    "PNG of very many rows": lambda: png(1, 70_000, data=zeros(140_000)),
    "PNG of very many chunks": lambda: png(before=chunk(b"teSt", b"") * 30_000),
    "PNG of very many pieces of data": lambda: png(before=chunk(b"IDAT", b"") * 30_000),
    "JPEG of 60,000 x 60,000 pixels": lambda: scans(1, 60_000),
    "JPEG of very many scans": lambda: scans(2000, 7000),
    "JPEG of very many comments": lambda: segments(b"\xff\xfe\0\2", 30_000),
    "JPEG of very many pieces of EXIF": lambda: segments(b"\xff\xe1\0\x0aExif\0\0XX", 30_000),
    "JPEG padded": lambda: segments(b"\xff", 100_000),
    "GIF of 60,000 x 60,000 pixels": lambda: gif(60_000, 60_000),
    "GIF whose frame is larger than its screen": lambda: gif(frame=(0, 0, 60_000, 60_000)),
    "GIF of very many comments": lambda: gif(before=b"!\xfe\1a\0" * 30_000),
    "GIF of one comment in very many pieces": lambda: gif(before=b"!\xfe" + b"\1a" * 30_000 + b"\0"),
    "BMP of 30,000 x 30,000 pixels": lambda: bmp(30_000, 30_000),
    "BMP of a negative width": lambda: bmp(-8, 8, data=bytes(192)),
    "TIFF of 50,000 x 50,000 pixels": lambda: tiff({**GREY_TIFF, WIDTH: (50_000,), HEIGHT: (50_000,)}, bytes(64)),
    "TIFF of a small picture in a vast tile": lambda: tiled(10_000),
    "TIFF of very many strips": lambda: tiff(
        {**GREY_TIFF, WIDTH: (1,), HEIGHT: (30_000,), STRIPS: (8,) * 30_000, ROWS: (1,), COUNTS: (1,) * 30_000}
    ),
    "WebP of 16,384 x 16,384 pixels": lambda: webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(30)),
    "PNG with ten million bytes behind": lambda: encoded(drawn(), "PNG") + bytes(10_000_000),
}


def _pictures() -> Iterator[Bad]:
    for name, make in CANT_BE_READ.items():
        yield Bad(name, make(), kinds=IMAGES)
        yield Bad(f"{name}, for a policy", make(), kinds=POLICY)
        yield Bad(f"{name}, for a video classifier", make(), kinds=VIDEO)
    for name, make in TOO_LARGE.items():
        yield Bad(name, make(), kinds=IMAGES, status=413, type="TooLarge")
    yield Bad("a blank picture", encoded(Image.new("L", (32, 32), 255), "PNG"), kinds=CLASSIFIER)
    yield Bad("a picture of one pixel", encoded(Image.new("L", (1, 1), 255), "PNG"), kinds=CLASSIFIER)
    yield Bad("a picture as text", encoded(drawn(), "PNG"), (("Content-Type", "text/plain"),), POLICY)
    yield Bad("a picture that says it is JSON", encoded(drawn(), "PNG")[:50], (JSON,))
    yield Bad("a picture, gzipped", zlib.compress(encoded(drawn(), "PNG"), wbits=31), (("Content-Encoding", "gzip"),), IMAGES)


# --- JSON -------------------------------------------------------------------------------------------------------------------

BROKEN = {
    "one brace": b"{",
    "one bracket": b"[",
    "no value": b'{"data":}',
    "no end": b'{"data": [1, 2',
    "a comma too many": b'{"data": [1, 2,]}',
    "single quotes": b"{'data': [1]}",
    "a comment": b'{"data": [1]} // one',
    "two documents": b"{}{}",
    "rubbish behind": b'{"data": [1]} x',
    "brackets 100,000 deep": b"[" * 100_000,
    "braces 100,000 deep": b'{"data":' * 100_000,
    "brackets 5,000 deep, closed": b"[" * 5000 + b"]" * 5000,
    "a number of 5,000 digits": b'{"data": ' + b"9" * 5000 + b"}",
    "a control character": b'{"data": "\1"}',
    "a bad escape": b'{"data": "\\x41"}',
    "half an escape": b'{"data": "\\u12"}',
    "bytes that are no UTF-8": b'{"data": "\xff\xfe"}',
    "an overlong UTF-8 form": b'{"data\xc0\xaf": 1}',
    "a leading zero": b'{"data": [01]}',
    "a plus sign": b'{"data": [+1]}',
    "a hexadecimal number": b'{"data": [0x1]}',
}
NO_INSTANCE = {
    "an empty object": "{}",
    "an empty list": "[]",
    "null": "null",
    "true": "true",
    "a number": "3",
    "a text": '"text"',
    "an empty text": '""',
    "NaN alone": "NaN",
    "an unknown key": '{"pixels": [1]}',
    "a key in capitals": '{"DATA": [1]}',
    "an empty key": '{"": [1]}',
    "a lone surrogate as a key": '{"\\ud800": 1}',
    "a lone surrogate as a value": '{"data": "\\ud800"}',
    "null under the key": '{"data": null}',
    "false under the key": '{"data": false}',
    "an object under the key": '{"data": {}}',
    "an object in an object": '{"data": {"data": [1]}}',
    "text that is no base64": '{"data": "not base64!"}',
    "empty text": '{"data": ""}',
    "an empty data URL": '{"data": "data:,"}',
    "a data URL without a comma": '{"data": "data:image/png;base64"}',
    "base64 with a letter missing": '{"data": "iVBORw0KGgo"}',
    "base64 of nothing known": '{"data": "aGVsbG8="}',
    "base64 in another alphabet": '{"data": "__-_"}',
    "base64 with letters of another script": '{"data": "ａａａａ"}',
    "a key twice, the last one wrong": '{"data": [0, 0, 0, 0], "data": null}',
    "two keys": '{"data": [0, 0, 0, 0], "image": "aGVsbG8=", "observation": [0, 0, 0, 0]}',
    "an option alone": '{"top_k": 3}',
    "a key of the protocol misspelt": '{"instance": [[0, 0, 0, 0]]}',
}
NO_OBSERVATION = {
    "too few numbers": "[0, 0, 0]",
    "too many numbers": "[0, 0, 0, 0, 0]",
    "one number": "0",
    "a list too deep": "[[0, 0, 0, 0]]",
    "numbers too deep": "[[0], [0], [0], [0]]",
    "one number too deep": "[0, 0, 0, [0]]",
    "text": '"0, 0, 0, 0"',
    "a text among the numbers": '[0, 0, 0, "0"]',
    "null among the numbers": "[0, 0, 0, null]",
    "true among the numbers": "[0, 0, 0, true]",
    "an object among the numbers": "[0, 0, 0, {}]",
    "NaN": "[0, 0, 0, NaN]",
    "infinity": "[0, 0, 0, Infinity]",
    "minus infinity": "[0, 0, 0, -Infinity]",
    "a huge exponent": "[0, 0, 0, 1e999]",
    "a number beyond float32": "[0, 0, 0, 1e39]",
    "a number of 400 digits": f"[0, 0, 0, {'9' * 400}]",
    "a number of 300 digits": f"[0, 0, 0, {'9' * 300}]",
    "numbers by position": '{"0": 0, "1": 0, "2": 0, "3": 0}',
    "a list of a million numbers": "[" + "0," * 999_999 + "0]",
}
WRONG_OPTIONS = {  # as JSON
    "top_k": (
        CLASSIFIER,
        ("0", "-1", "1001", "2.5", "1e400", "NaN", "null", "true", "[]", "{}", '"many"', '""', "9" * 400, f'"{"9" * 5000}"'),
    ),
    "confidence_threshold": (DETECTOR, ("-0.1", "1.01", "NaN", "Infinity", "null", "true", "[0.5]", '"high"', '""', "9" * 400, '"nan"')),
    "format": (SEGMENTER, ("0", "null", "true", "[]", "{}", '"gif"', '""', '"json,png"', '["png"]', "NaN")),
    "deterministic": (POLICY, ("1", "0", "null", '"yes"', '""', "[]", "{}", "NaN")),
    "action_mask": (
        POLICY,
        ("[1]", "[1, 1, 1]", "[0, 0]", "[]", "null", "1", '"all"', '"1"', "[1, 2]", "[1, null]", "[[1], [1]]", "[1.0]", "{}"),
    ),
}
WRONG_TEXTS = ("", "wrong", "\xe9\xff", "9" * 6000, "[" * 2000, "NaN", "3;drop", "\t1,0,,\x7f")  # as header or form field


def both(name: str, body: bytes | str, kinds: frozenset[str] = ALL, status: int = 400, kind: str = "NotUnderstood") -> Iterator[Bad]:
    """A JSON body with its content type and without."""
    content = body.encode() if isinstance(body, str) else body
    yield Bad(f"{name}, as JSON", content, (JSON,), kinds, status=status, type=kind)
    yield Bad(f"{name}, without a content type", content, kinds=kinds, status=status, type=kind)


def base64_of(content: bytes) -> str:
    """Base64 as JSON has it."""
    return base64.b64encode(content).decode()


def instance(kind: str, more: str = "") -> str:
    """A good instance as JSON; `more` is appended to its object."""
    if kind == "policy":
        return f'{{"observation": [0.1, -0.2, 0.03, 0.4]{more}}}'
    if kind == "video_classifier":
        return f'{{"clip": "{base64_of(clip())}"{more}}}'
    return f'{{"image": "{base64_of(encoded(drawn(), "PNG"))}"{more}}}'


def _json() -> Iterator[Bad]:
    for name, body in BROKEN.items():
        yield from both(name, body)
        yield Bad(f"{name}, in a form", parts=(Part("data", body, "application/json"),))
    for name, text in NO_INSTANCE.items():
        yield from both(name, text)
        yield Bad(f"{name}, as an instance", f'{{"instances": [{text}]}}'.encode(), (JSON,))
    for name, text in NO_OBSERVATION.items():
        yield from both(f"{name} as observation", f'{{"observation": {text}}}', POLICY)
        yield from both(f"{name} behind a good instance", f'{{"instances": [{instance("policy")}, {text}]}}', POLICY)
    good_text = instance("policy")
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        yield from both(f"JSON in {encoding}", good_text.encode(encoding), POLICY)
    yield Bad("an empty body that says it is JSON", b"", (JSON,))
    yield Bad("white space that says it is JSON", b" \n", (JSON,))
    yield Bad("text that is no JSON", b"observation: 1 2 3 4", (("Content-Type", "text/plain"),))
    yield from both("PNG of 50,000 x 50,000 pixels", f'{{"image": "{base64_of(png(50_000, 50_000))}"}}', IMAGES, 413, "TooLarge")
    yield from both("a cut JPEG", f'{{"b64": "{base64_of(encoded(drawn(), "JPEG")[:300])}"}}', IMAGES)
    yield from both("a list of pixels", '{"image": [[0, 255], [255, 0]]}', IMAGES)


def _options() -> Iterator[Bad]:
    for option, (kinds, values) in WRONG_OPTIONS.items():
        (kind,) = kinds
        tensor = json.dumps(_tensor(kind))
        for value in values:
            name = f"{option} {value[:20]}"
            more = f', "{option}": {value}'
            yield from both(name, instance(kind, more), kinds)
            yield Bad(f"{name} beside instances", f'{{"instances": [{instance(kind)}]{more}}}'.encode(), (JSON,), kinds)
            two = f'{{"instances": [{instance(kind)}, {instance(kind, more)}]}}'
            yield Bad(f"{name} in one of two instances", two.encode(), (JSON,), kinds)
            yield Bad(f"{name} as parameter", f'{{"inputs": [{tensor}], "parameters": {{"{option}": {value}}}}}'.encode(), (JSON,), kinds)
        for text in WRONG_TEXTS:
            yield Bad(f"{option} {text[:10]!r} as header", payload(kind), ((option, text),), kinds)
            if "_" in option:
                yield Bad(f"{option} {text[:10]!r} as dashed header", payload(kind), ((option.replace("_", "-"), text),), kinds)
            parts = (Part("data", payload(kind), "application/octet-stream"), Part(option, text.encode()))
            yield Bad(f"{option} {text[:10]!r} as field", parts=parts, kinds=kinds)
    sampled = instance("policy", ', "deterministic": false')
    yield from both("a policy without a distribution is to sample", sampled, POLICY, 415, "NotSupported")
    yield from both("a seed where nothing is drawn", instance("policy", ', "seed": 1'), POLICY)
    yield from both("another kind's option", instance("detector", ', "top_k": 3'), DETECTOR)
    yield from both("a detector's option", instance("segmenter", ', "confidence_threshold": 0.5'), SEGMENTER)
    one, as_png = instance("segmenter"), instance("segmenter", ', "format": "png"')
    for name, body in {
        "a label map for two instances": f'{{"instances": [{one}, {one}], "format": "png"}}',
        "a label map for one of two instances": f'{{"instances": [{one}, {as_png}]}}',
        "a label map in an answer of tensors": f'{{"inputs": [{json.dumps(_tensor("segmenter"))}], "parameters": {{"format": "png"}}}}',
    }.items():
        yield from both(name, body, SEGMENTER, 415, "NotSupported")
    yield from both("an option of explanations", instance("classifier", ', "class_index": 3'), CLASSIFIER)


# --- KServe -----------------------------------------------------------------------------------------------------------------


def _tensor(kind: str, **other: Any) -> dict[str, Any]:
    """A good tensor of one instance; `other` values replace its own."""
    if kind == "policy":
        return {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, -0.2, 0.03, 0.4], **other}
    if kind == "video_classifier":
        return {"name": "x", "shape": [1, 2, 8, 8, 3], "datatype": "UINT8", "data": np.asarray(drawn(8, 16)).flatten().tolist(), **other}
    return {"name": "x", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": np.asarray(drawn(16, 16)).flatten().tolist(), **other}


WRONG_SHAPES: tuple[Any, ...] = (
    *(None, [], "1,4", [1] * 33),
    *([0, 4], [-1, 4], [1.5, 4], [True, 4], [[1], 4], [1, "4"], [1, None]),
    *([1, 5], [2, 4], [1, 1 << 31], [1, 1 << 70]),
)
WRONG_DATA: tuple[Any, ...] = (
    *(None, {}, 3, "0,0,0,0", [], [[]], [0, 0, 0]),
    *([[[0, 0, 0, 0]]], [[0, 0], [0]], [0, 0, 0, "0"], [0, 0, 0, True], [0, 0, 0, None]),
)
OUT_OF_RANGE = (("UINT8", 256), ("UINT8", -1), ("INT8", 128), ("INT64", 1 << 63), ("UINT64", 1 << 64), ("INT32", 0.5), ("BOOL", 1))


def v2(label: str, kinds: frozenset[str] = ALL, status: int = 400, kind: str = "NotUnderstood", **other: Any) -> Iterator[Bad]:
    """A request of one tensor with these values, None to leave one out; on image kinds the tensor is one of pixels."""
    for one in sorted(kinds):
        tensor = {key: value for key, value in _tensor(one, **other).items() if value is not None}
        yield Bad(f"{label}, v2, {one}", json.dumps({"inputs": [tensor]}).encode(), (JSON,), frozenset({one}), status=status, type=kind)


def _version_1() -> Iterator[Bad]:
    for value in ("null", "{}", '""', "[]", "3", '"text"', "true", "NaN"):
        yield from both(f"instances {value}", f'{{"instances": {value}}}')
    yield from both("10,001 instances", json.dumps({"instances": [0] * 10_001}), ALL, 413, "TooLarge")
    for kind in sorted(ALL):
        kinds, one = frozenset({kind}), instance(kind)
        yield Bad(f"a good and a bad instance, {kind}", f'{{"instances": [{one}, null]}}'.encode(), (JSON,), kinds)
        yield Bad(f"a bad and a good instance, {kind}", f'{{"instances": [{{}}, {one}]}}'.encode(), (JSON,), kinds)
        yield Bad(f"instances in an instance, {kind}", f'{{"instances": [{{"instances": [{one}]}}]}}'.encode(), (JSON,), kinds)
        yield Bad(f"an unknown key beside instances, {kind}", f'{{"instances": [{one}], "signature_name": "x"}}'.encode(), (JSON,), kinds)
        yield Bad(f"instances and inputs, {kind}", f'{{"instances": [{one}], "inputs": []}}'.encode(), (JSON,), kinds)


def _version_2() -> Iterator[Bad]:
    for value in ("null", "{}", '""', "[]", "3", "[3]", "[null]", "[{}]", "[[]]"):
        yield from both(f"inputs {value}", f'{{"inputs": {value}}}')
    for shape in WRONG_SHAPES:
        yield from v2(f"shape {str(shape)[:20]}", shape=shape)
    yield from v2("a shape of four billion values", shape=[1, 1 << 16, 1 << 16], data=[0])
    many = [{"name": str(index), "shape": [1], "datatype": "BYTES", "data": [""]} for index in range(101)]
    yield from both("101 inputs", json.dumps({"inputs": many}), ALL, 413, "TooLarge")
    yield from v2("more instances than the limit", shape=[10_001, 4], data=[0], status=413, kind="TooLarge")
    for datatype in (None, "", "fp32", "FP8", "BF16", "FP16", "STRING", 3, ["FP32"]):
        yield from v2(f"datatype {datatype}", datatype=datatype)
    for data in WRONG_DATA:
        yield from v2(f"data {str(data)[:20]}", POLICY, data=data)
    for number in ("NaN", "-Infinity", "1e39", "9" * 400):
        body = json.dumps({"inputs": [_tensor("policy", data=[0, 0, 0, "?"])]}).replace('"?"', number)
        yield Bad(f"{number[:10]} in a tensor", body.encode(), (JSON,), POLICY)
    for datatype, number in OUT_OF_RANGE:
        yield from v2(f"{number} as {datatype}", POLICY, datatype=datatype, data=[0, 0, 0, number])
    yield from v2("truths for an observation", POLICY, datatype="BOOL", data=[True, False, True, False])
    yield from v2("texts for an observation", POLICY, datatype="BYTES", shape=[1], data=["a"])
    yield from v2("an unknown key in a tensor", dtype="FP32")
    yield from v2("no name", name=None)
    yield from v2("a number as name", name=3)
    yield from v2("parameters that are a list", parameters=[])
    yield from v2("binary data that isn't there", data=None, parameters={"binary_data_size": 16})
    yield from v2("values twice", parameters={"binary_data_size": 16})
    for shape in ([1, 8], [1, 2, 2, 2], [1, 4, 2, 1, 1]):
        yield from v2(f"pixels of shape {shape}", IMAGES, shape=shape, data=[0] * 8)
    for datatype, value in (("FP32", 0.5), ("BOOL", True)):
        yield from v2(f"pixels that are {datatype}", IMAGES, shape=[1, 2, 4], datatype=datatype, data=[value] * 8)
    yield from v2("pixels above 255", IMAGES, shape=[1, 2, 2], datatype="INT32", data=[0, 0, 0, 256])
    yield from v2("pixels below 0", IMAGES, shape=[1, 2, 2], datatype="INT8", data=[0, 0, 0, -1])
    yield from v2("base64 of no image", IMAGES, shape=[1], datatype="BYTES", data=["aGVsbG8="])
    yield from v2("text of no base64", IMAGES, shape=[1], datatype="BYTES", data=["not base64!"])
    yield from v2("two texts for one instance", IMAGES, shape=[1, 2], datatype="BYTES", data=["aGVsbG8=", "aGVsbG8="])
    for kind in sorted(ALL):
        kinds, tensor = frozenset({kind}), _tensor(kind)
        two = {"name": "y", "shape": [2], "datatype": "INT32", "data": [1, 1]}
        for name, body in {
            "two inputs of one name": {"inputs": [tensor, tensor]},
            "two inputs that are no option": {"inputs": [tensor, {**tensor, "name": "y"}]},
            "inputs of different numbers of instances": {"inputs": [tensor, two]},
            "an unknown key beside inputs": {"inputs": [tensor], "instances": []},
            "an unknown parameter": {"inputs": [tensor], "parameters": {"topk": 1}},
            "parameters that are a text": {"inputs": [tensor], "parameters": "top_k=1"},
            "an id that is a number": {"inputs": [tensor], "id": 7},
            "outputs that are an object": {"inputs": [tensor], "outputs": {}},
            "an id that is longer than an answer": {"inputs": [tensor], "id": "x" * 7_000_000},
        }.items():
            refused = {"status": 413, "type": "TooLarge"} if "longer" in name else {}
            yield Bad(f"{name}, {kind}", json.dumps(body).encode(), (JSON,), kinds, **refused)  # type: ignore[arg-type]
    yield from _binary()


def _binary() -> Iterator[Bad]:
    """Tensor data behind the JSON, and lies about its length."""

    def body(size: Any, data: bytes, **other: Any) -> tuple[bytes, int]:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}, **other}
        head = json.dumps({"inputs": [tensor]}).encode()
        return head + data, len(head)

    whole, length = body(16, bytes(16))
    for text in ("", "0", "-1", "x", "1e3", str(length - 1), str(length + 1), str(10**30), "٣", "+90", "9" * 5000):
        yield Bad(f"header length {text[:10]!r}", whole, ((BINARY, text.encode().decode("latin-1")),))
    yield Bad("header length, but no binary data", json.dumps({"inputs": [_tensor("policy")]}).encode(), ((BINARY, "5"),))
    for name, size, data in (
        ("more", 20, bytes(16)),
        ("less", 12, bytes(16)),
        ("right, and four bytes more behind", 16, bytes(20)),
        ("none", 0, b""),
        ("minus one", -1, bytes(16)),
        ("a fraction", 16.0, bytes(16)),
        ("a text", "16", bytes(16)),
        ("more than there is memory", 1 << 60, bytes(16)),
        ("NaN in its data", 16, b"\xff" * 16),
        ("three quarters of a number", 15, bytes(15)),
    ):
        content, head = body(size, data)
        yield Bad(f"binary size: {name}", content, ((BINARY, str(head)),))
    strings = {"cut off": b"\4\0\0\0ab", "of four billion bytes": b"\xff" * 8, "without a length": b"\0", "of no image": b"\5\0\0\0hello"}
    for name, data in strings.items():
        content, head = body(len(data), data, datatype="BYTES", shape=[1])
        yield Bad(f"a binary string {name}", content, ((BINARY, str(head)),))
    content, head = body(4, b"\2\0\1\1", datatype="BOOL")
    yield Bad("a binary truth that is 2", content, ((BINARY, str(head)),))


# --- forms, methods, headers, explanations ------------------------------------------------------------------------------------


def payload(kind: str) -> bytes:
    """A good body of this kind."""
    return {"policy": instance("policy").encode(), "video_classifier": clip()}.get(kind) or encoded(drawn(), "PNG")


def _forms() -> Iterator[Bad]:
    yield Bad("curl -d x", b"x", (FORM,))
    yield Bad("an empty form", b"", (FORM,))
    yield Bad("curl -d with JSON", b'{"observation": [0, 0, 0, 0]}', (FORM,))
    yield Bad("a form of two unknown fields", b"a=1&b=2", (FORM,))
    yield Bad("a form's field that is nothing", b"data=nothing", (FORM,))
    yield Bad("a form of options alone", b"top_k=3&confidence_threshold=0.5&deterministic=true", (FORM,))
    yield Bad("an empty file", parts=(Part("data", b"", "image/png"),))
    yield Bad("an empty field", parts=(Part("data", b""),))
    yield Bad("two files", parts=(Part("a", payload("detector"), "image/png"), Part("b", payload("detector"), "image/png")))
    yield Bad("a file and an unknown field", parts=(Part("data", payload("detector"), "image/png"), Part("topk", b"3")))
    yield Bad("a field of one name twice, the last one wrong", parts=(Part("data", payload("detector"), "image/png"), Part("data", b"x")))
    yield Bad("the field describe", parts=(Part("describe", b"True"),))
    yield Bad("the field explain", parts=(Part("explain", b"True"), Part("data", payload("detector"))))
    yield Bad("two thousand fields", parts=tuple(Part(f"field-{index}", b"x") for index in range(2000)))
    yield Bad("a field whose name is long", parts=(Part("n" * 100_000, b"x"), Part("data", b"x")))
    yield Bad("a field whose name is not ASCII", parts=(Part("日本", b"x"), Part("データ", b"x")))
    whole = multipart((Part("data", payload("detector"), "image/png"),))
    yield Bad("a form without its end", whole[:-7], (MULTIPART,), row={})
    yield Bad("a form cut off", whole[:60], (MULTIPART,), row={})
    yield Bad("a form of another boundary", whole, (("Content-Type", "multipart/form-data; boundary=C"),), row={})
    yield Bad("a form without a boundary", whole, (("Content-Type", "multipart/form-data"),))
    yield Bad("a form of no parts", b"--B--\r\n", (MULTIPART,), row={})
    yield Bad("an empty multipart body", b"", (MULTIPART,), row={})


def _methods() -> Iterator[Bad]:
    for method in ("GET", "DELETE", "PUT", "PATCH"):
        yield Bad(f"an empty {method}", method=method)
        yield Bad(f"an empty {method} of an explanation", method=method, path="explanations", kinds=CLASSIFIER | POLICY)
    yield Bad("an empty body")
    yield Bad("a GET of a form", method="GET", headers=(FORM,))


def _headers() -> Iterator[Bad]:
    for kind in sorted(ALL):
        for text in ("perhaps", "1", "", "TRUE!", "\xe9", "x" * 7000):
            yield Bad(f"describe {text[:10]!r}, {kind}", payload(kind), (("describe", text),), frozenset({kind}))


def _explanations() -> Iterator[Bad]:
    yield Bad("why a detector", payload("detector"), path="explanations", kinds=DETECTOR, status=415, type="NotSupported")
    yield Bad("why a segmenter", payload("segmenter"), path="explanations", kinds=SEGMENTER, status=415, type="NotSupported")
    yield Bad("why, of no picture", b"hello", path="explanations", kinds=CLASSIFIER)
    yield Bad("why, of a blank picture", encoded(Image.new("L", (9, 9)), "PNG"), path="explanations", kinds=CLASSIFIER)
    yield Bad("why, of no observation", b'{"observation": [0]}', (JSON,), path="explanations", kinds=POLICY)
    yield Bad("why, of an unknown key", instance("policy", ', "class_index": 1').encode(), (JSON,), path="explanations", kinds=POLICY)
    for value in ("10", "-1", "1.5", "x", "", "9" * 5000):
        yield Bad(f"why class {value[:10]!r}", payload("classifier"), (("class_index", value),), CLASSIFIER, path="explanations")
    for value in ("gif", "", "jsonpng", "\xe9"):
        yield Bad(f"why in the format {value!r}", payload("classifier"), (("format", value),), CLASSIFIER, path="explanations")
    body = f'{{"instances": [{instance("classifier")}, {instance("classifier")}], "format": "png"}}'.encode()
    yield Bad("why, two pictures as one", body, (JSON,), CLASSIFIER, path="explanations", status=415, type="NotSupported")
    two = f'{{"instances": [{instance("policy")}, {{}}]}}'.encode()
    yield Bad("why, of a good and a bad instance", two, (JSON,), POLICY, path="explanations")


def _in_front() -> Iterator[Bad]:
    """What TorchServe refuses by itself, with words of its own: no worker sees it."""
    form = b'--B\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n%s\r\n\r\nx\r\n--B--\r\n'
    broken = {"status": 500, "type": "ErrorDataDecoderException", "in_front": True}
    invalid = {"status": 400, "type": "BadRequestException", "in_front": True}
    yield Bad("a part without a name", b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n", (MULTIPART,), **broken)  # type: ignore[arg-type]
    yield Bad("a part in base64", form % b"Content-Transfer-Encoding: base64", (MULTIPART,), **broken)  # type: ignore[arg-type]
    yield Bad("a part in an unknown alphabet", form % b"Content-Type: text/plain; charset=none", (MULTIPART,), **broken)  # type: ignore[arg-type]
    yield Bad("a form's bad percent sign", b"data=%zz", (FORM,), **broken)  # type: ignore[arg-type]
    yield Bad("a form's field without a name", b"=x", (FORM,), **broken)  # type: ignore[arg-type]
    yield Bad("a header with a null", b"x", (("top_k", "a\0b"),), **invalid)  # type: ignore[arg-type]
    yield Bad("a header of 20,000 letters", b"x", (("top_k", "9" * 20_000),), **invalid)  # type: ignore[arg-type]
    yield Bad("a broken chunk", b"zz\r\nx\r\n0\r\n\r\n", (("Transfer-Encoding", "chunked"),), **invalid)  # type: ignore[arg-type]
    yield Bad("a length that is a word", b"x", (("Content-Length", "many"),), **invalid)  # type: ignore[arg-type]
    yield Bad("an unknown expectation", b"", (("Expect", "a-miracle"),), status=417, type="", in_front=True)
    yield Bad("a body over max_request_size", bytes(20_000_001), status=413, type="", in_front=True)


@cache
def corpus() -> tuple[Bad, ...]:
    """All bad requests, their names all different."""
    sources = (_pictures, _json, _options, _version_1, _version_2, _forms, _methods, _headers, _explanations, _in_front)
    from tests import bad_clips  # which is made of what is here

    found = [one for source in (*sources, bad_clips.bad) for one in source()]
    names = [one.name for one in found]
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})
    return tuple(found)


def bad(kind: str) -> list[Bad]:
    """The bad requests for this kind of model that reach its worker."""
    return [one for one in corpus() if kind in one.kinds and not one.in_front]


def refused_in_front() -> list[Bad]:
    """The bad requests that TorchServe refuses by itself."""
    return [one for one in corpus() if one.in_front]


@cache
def good(kind: str) -> tuple[Sent, ...]:
    """Requests that are answered, in every protocol and form."""
    from tests import bad_clips

    own = {"policy": _good_policies, "video_classifier": bad_clips.good}
    return tuple(replace(one, kinds=frozenset({kind})) for one in (own[kind]() if kind in own else _good_pictures(kind)))


def _good_policies() -> Iterator[Sent]:
    one, tensor = instance("policy"), _tensor("policy")
    numbers = np.array([[0.1, -0.2, 0.03, 0.4], [-0.1, 0.2, -0.03, -0.4]], "<f4")
    mask = {"name": "action_mask", "shape": [1, 2], "datatype": "BOOL", "data": [False, True]}
    head = json.dumps({"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}]}).encode()
    yield Sent("JSON", one.encode(), (JSON,))
    yield Sent("JSON without a content type", one.encode())
    yield Sent("JSON behind white space", f"\n  {one}\n".encode())
    yield Sent("JSON as text", one.encode(), (("Content-Type", "text/plain"),))
    yield Sent("JSON in a form", parts=(Part("data", one.encode(), "application/json"),))
    yield Sent("the list alone", b"[1, 0, -0.05, 0]", (JSON,))
    yield Sent("the key data", b'{"data": [1e-3, 2, -0.0, 3.5E-1]}', (JSON,))
    yield Sent("a mask", instance("policy", ', "action_mask": [true, false]').encode(), (JSON,))
    yield Sent("a mask as header", one.encode(), (JSON, ("action-mask", "0,1")))
    yield Sent("many instances", f'{{"instances": [{one}, [0, 0, -0.1, -1]], "deterministic": true}}'.encode(), (JSON,))
    hundred = [[index / 100, 0, 0.1 - index / 500, 0] for index in range(100)]
    yield Sent("100 instances", json.dumps({"instances": hundred}).encode(), (JSON,))
    yield Sent("a tensor", json.dumps({"inputs": [tensor], "id": "7"}).encode(), (JSON,))
    yield Sent("a tensor and a mask", json.dumps({"inputs": [tensor, mask]}).encode(), (JSON,))
    yield Sent("a binary tensor", head + numbers.tobytes(), ((BINARY, str(len(head))),))
    yield Sent("why", one.encode(), (JSON,), path="explanations")
    yield Sent("describe", b"", (("describe", "True"),))


def _good_pictures(kind: str) -> Iterator[Sent]:
    option = {"classifier": ("top_k", "3"), "detector": ("confidence_threshold", "0.3"), "segmenter": ("format", "rle")}[kind]
    turned = Image.Exif()
    turned[274] = 6
    grey = np.asarray(drawn(mode="L")).astype(np.uint16) * 257
    files = {
        "PNG": encoded(drawn(), "PNG"),
        "JPEG": encoded(drawn(), "JPEG"),
        "progressive JPEG": encoded(drawn(), "JPEG", progressive=True),
        "JPEG in CMYK": encoded(drawn(mode="CMYK"), "JPEG"),
        "JPEG on its side": encoded(drawn(60, 40).rotate(90, expand=True), "JPEG", exif=turned),
        "JPEG with rubbish for EXIF": exif(b"nothing of the sort"),
        "PNG of one bit": encoded(drawn(mode="1"), "PNG"),
        "PNG of grey": encoded(drawn(mode="L"), "PNG"),
        "PNG of 16 bits": encoded(Image.fromarray(grey), "PNG"),
        "PNG with a palette": encoded(drawn(mode="P"), "PNG"),
        "PNG with alpha": encoded(drawn(mode="RGBA"), "PNG"),
        "PNG with more data than it declares": png(48, 48, data=zlib.compress(_rows(drawn(mode="L")) + bytes(5_000_000))),
        "animated GIF": encoded(drawn(), "GIF", save_all=True, append_images=[drawn().rotate(90)]),
        "WebP": encoded(drawn(), "WEBP"),
        "BMP": encoded(drawn(), "BMP"),
        "TIFF": encoded(drawn(), "TIFF", compression="tiff_lzw"),
        "TIFF of floats": encoded(drawn(mode="F"), "TIFF"),
        "another size": encoded(drawn(200, 130), "JPEG"),
    }
    for name, file in files.items():
        yield Sent(name, file)
    text = base64_of(files["PNG"])
    tensor = _tensor("detector")
    size = 4 + len(files["JPEG"])
    head = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}]}).encode()
    yield Sent("an option as header", files["PNG"], (option,))
    yield Sent("a form", parts=(Part("data", files["WebP"], "image/webp"), Part(option[0], option[1].encode())))
    yield Sent("a form of another name", parts=(Part("picture", files["JPEG"]),))
    yield Sent("base64", json.dumps({"image": text}).encode(), (JSON,))
    yield Sent("base64 behind white space", f' \n {{"b64": "{text}"}}'.encode())
    yield Sent("a data URL", json.dumps({"data": f"data:image/png;base64,{text}", option[0]: option[1]}).encode(), (JSON,))
    yield Sent("many instances", json.dumps({"instances": [{"b64": text}, text, base64_of(files["JPEG"])]}).encode(), (JSON,))
    yield Sent("pixels", json.dumps({"inputs": [tensor], "id": "a", "parameters": {option[0]: option[1]}}).encode(), (JSON,))
    texts = {"name": "x", "shape": [2], "datatype": "BYTES", "data": [text, text]}
    yield Sent("base64 in a tensor", json.dumps({"inputs": [texts]}).encode(), (JSON,))
    yield Sent("a file in a tensor", head + struct.pack("<I", len(files["JPEG"])) + files["JPEG"], ((BINARY, str(len(head))),))
    yield Sent("describe", b"", (("describe", "True"),))
    if kind == "classifier":
        yield Sent("why", files["PNG"], path="explanations")
    if kind == "segmenter":
        for form in ("json", "Compressed_RLE", "areas"):
            yield Sent(f"the format {form}", files["another size"], (("format", form),))
        each = [json.dumps({"image": text, "format": form}) for form in ("json", "rle", "areas")]
        yield Sent("each instance in a format of its own", f'{{"instances": [{", ".join(each)}]}}'.encode(), (JSON,))
        yield Sent("run lengths as tensors", json.dumps({"inputs": [texts], "parameters": {"format": "compressed_rle"}}).encode(), (JSON,))


def _rows(image: Image.Image) -> bytes:
    """The pixels as a PNG has them: each row behind its filter's number."""
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(image))
