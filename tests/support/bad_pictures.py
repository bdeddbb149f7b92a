"""The part of the corpus `bad_inputs` with pictures: unreadable files, and files that are too large."""

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.support.picture_files import (
    COMPRESSION,
    COUNTS,
    GREY_TIFF,
    HEIGHT,
    ROWS,
    STRIPS,
    WIDTH,
    bmp,
    chunk,
    deep_png,
    drawn,
    encoded,
    float_tiff,
    gif,
    png,
    scans,
    segments,
    tiff,
    tiled,
    webp,
    zeros,
)
from tests.support.sent_requests import CLASSIFIER, DETECTOR, IMAGES, JSON, POLICY, SEGMENTER, VIDEO, Bad

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
    "JPEG of no rows": lambda: encoded(drawn(), "JPEG").replace(
        b"\xff\xc0\0\x11\x08\0\x30", b"\xff\xc0\0\x11\x08\0\0"
    ),
    "JPEG without tables": lambda: encoded(drawn(), "JPEG").replace(b"\xff\xdb", b"\xff\xfe"),
    "JPEG of twelve bits": lambda: encoded(drawn(), "JPEG").replace(
        b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"
    ),
    "JPEG of seven components": lambda: scans(1, 8).replace(
        b"\0\x08\0\x08\1\1\x11\0", b"\0\x08\0\x08\7\1\x11\0"
    ),
    "PNG cut in its header": lambda: encoded(drawn(), "PNG")[:20],
    "PNG cut in its picture": lambda: encoded(drawn(), "PNG")[:150],
    "PNG of no width": lambda: png(0, 8),
    "PNG of three bits": lambda: png(depth=3),
    "PNG of unknown colours": lambda: png(colours=7),
    "PNG of indices without a palette's data": lambda: png(depth=16, colours=3),
    "PNG whose data is not deflated": lambda: png(data=b"no zlib stream at all"),
    "PNG without data": lambda: png(data=b""),
    "PNG with less data than it declares": lambda: png(64, 64, data=zeros(100)),
    "PNG with a wrong checksum in its header": lambda: (
        encoded(drawn(), "PNG")[:29] + bytes(4) + encoded(drawn(), "PNG")[33:]
    ),
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
    "BMP, run-length encoded, of very many empty rows": lambda: bmp(
        7000, 7000, bits=8, compression=1, data=b"\1\0\0\0" * 7000
    ),
    "TIFF whose directory is outside": lambda: tiff(GREY_TIFF, bytes(64), directory=1 << 30),
    "TIFF without a size": lambda: tiff(
        {tag: values for tag, values in GREY_TIFF.items() if tag > HEIGHT}, bytes(64)
    ),
    "TIFF of no size": lambda: tiff({**GREY_TIFF, WIDTH: (0,)}, bytes(64)),
    "TIFF without a picture": lambda: tiff(
        {tag: values for tag, values in GREY_TIFF.items() if tag < STRIPS}, bytes(64)
    ),
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
    "SVG": lambda: (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>'
    ),
    "SVG with an entity": lambda: (
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>'
    ),
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
    "base64 of half a picture as the body": lambda: base64.b64encode(encoded(drawn(), "PNG")[:100]),
    "a data URL of percent signs as the body": lambda: b"data:image/png,%89PNG%0D%0A",
    "a PNG, gzipped, which nothing says": lambda: zlib.compress(encoded(drawn(), "PNG"), wbits=31),
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
    "TIFF of 50,000 x 50,000 pixels": lambda: tiff(
        {**GREY_TIFF, WIDTH: (50_000,), HEIGHT: (50_000,)}, bytes(64)
    ),
    "TIFF of a small picture in a vast tile": lambda: tiled(10_000),
    "TIFF of very many strips": lambda: tiff(
        {
            **GREY_TIFF,
            WIDTH: (1,),
            HEIGHT: (30_000,),
            STRIPS: (8,) * 30_000,
            ROWS: (1,),
            COUNTS: (1,) * 30_000,
        }
    ),
    "WebP of 16,384 x 16,384 pixels": lambda: webp(
        b"VP8L", b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(30)
    ),
    "PNG with ten million bytes behind": lambda: encoded(drawn(), "PNG") + bytes(10_000_000),
}


DARK = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65  # to 4095
UNKNOWN_WHITE: dict[str, Callable[[], bytes]] = {
    "PNG of 12 bits in 16": lambda: deep_png(DARK),
    "PNG of 8 bits in 16": lambda: deep_png(DARK // 17),
    "PNG of 15 bits in 16": lambda: deep_png(DARK * 8),
    "PNG of colors of 12 bits in 16": lambda: deep_png(np.stack([DARK] * 3, 2)),
    "PNG of colors of 12 bits in 16, as its sBIT says": lambda: deep_png(np.stack([DARK] * 3, 2), 12),
    "TIFF of 12 bits in 16": lambda: encoded(Image.fromarray(DARK), "TIFF"),
    "TIFF of values beyond its own largest": lambda: encoded(
        Image.fromarray(DARK), "TIFF", tiffinfo={281: 1000}
    ),
    "TIFF of whole numbers of 12 bits": lambda: encoded(Image.fromarray(DARK.astype(np.int32)), "TIFF"),
    "TIFF of very large whole numbers": lambda: encoded(
        Image.fromarray(DARK.astype(np.int32) * 9999), "TIFF"
    ),
    "TIFF of whole numbers below 0": lambda: encoded(Image.fromarray(DARK.astype(np.int32) - 9), "TIFF"),
    "TIFF of floats of 12 bits": lambda: encoded(Image.fromarray(DARK.astype(np.float32)), "TIFF"),
    "TIFF of floats from -1 to 1": lambda: encoded(
        Image.fromarray(DARK.astype(np.float32) / 2048 - 1), "TIFF"
    ),
    "TIFF of very large floats": lambda: encoded(Image.fromarray(DARK.astype(np.float32) * 1e9), "TIFF"),
}


def _frames(file: bytes) -> bytes:
    return json.dumps({"frames": [base64.b64encode(file).decode()] * 2}).encode()


def bad() -> Iterator[Bad]:
    """All of them."""
    for name, make in CANT_BE_READ.items():
        yield Bad(name, make(), kinds=IMAGES)
        yield Bad(f"{name}, for a policy", make(), kinds=POLICY)
        yield Bad(f"{name}, for a video classifier", make(), kinds=VIDEO)
    for name, make in TOO_LARGE.items():
        yield Bad(name, make(), kinds=IMAGES, status=413, type="TooLarge")
    for name, make in UNKNOWN_WHITE.items():
        yield Bad(name, make(), kinds=DETECTOR | SEGMENTER)
        yield Bad(f"{name}, in frames", _frames(make()), (JSON,), VIDEO)
    yield Bad("a blank picture", encoded(Image.new("L", (32, 32), 255), "PNG"), kinds=CLASSIFIER)
    yield Bad("a picture of one pixel", encoded(Image.new("L", (1, 1), 255), "PNG"), kinds=CLASSIFIER)
    yield Bad("a picture as text", encoded(drawn(), "PNG"), (("Content-Type", "text/plain"),), POLICY)
    yield Bad("a picture that says it is JSON", encoded(drawn(), "PNG")[:50], (JSON,))
