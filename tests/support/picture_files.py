"""Picture files, valid ones and damaged ones that no program writes; all are made here."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw


def drawn(width: int = 48, height: int = 48, mode: str = "RGB") -> Image.Image:
    """A seven, dark on light."""
    image = Image.new("RGB", (width, height), (250, 248, 240))
    points = [(0.28, 0.24), (0.7, 0.24), (0.62, 0.42), (0.5, 0.6), (0.43, 0.78)]
    ImageDraw.Draw(image).line(
        [(x * width, y * height) for x, y in points],
        fill=(20, 20, 60),
        width=max(1, height // 12),
        joint="curve",
    )
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


def png(
    width: int = 8,
    height: int = 8,
    depth: int = 8,
    colours: int = 0,
    data: bytes | None = None,
    before: bytes = b"",
) -> bytes:
    """A PNG with these values in its header, whether they make sense or not; black by default. `before`:
    chunks before its data.
    """
    data = zlib.compress(bytes(9 * 8)) if data is None else data
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """`count` bytes of nothing, deflated a thousandfold."""
    deflate = zlib.compressobj(9)
    return (
        b"".join(deflate.compress(bytes(min(1 << 20, count - start))) for start in range(0, count, 1 << 20))
        + deflate.flush()
    )


def bmp(
    width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = b"", header: int = 40
) -> bytes:
    """A BMP with these values in its header."""
    colours = 1 << bits if bits <= 8 else 0
    start = 54 + 4 * colours
    info = struct.pack(
        "<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data), 0, 0, colours, colours
    )
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
    return (
        b"II*\0"
        + struct.pack("<I", directory)
        + struct.pack("<H", len(rows))
        + b"".join(rows)
        + bytes(4)
        + arrays
        + data
    )


DATA_AT = -1
WIDTH, HEIGHT, DEPTH, COMPRESSION, PHOTOMETRIC, STRIPS, ROWS, COUNTS = 256, 257, 258, 259, 262, 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_COUNTS = 322, 323, 324, 325
GREY_TIFF = {
    WIDTH: (8,),
    HEIGHT: (8,),
    DEPTH: (8,),
    COMPRESSION: (1,),
    PHOTOMETRIC: (1,),
    STRIPS: (DATA_AT,),
    ROWS: (8,),
    COUNTS: (64,),
}


def tiled(side: int) -> bytes:
    """A TIFF of 8 x 8 pixels in one deflated tile of `side` x `side`."""
    data = zeros(64)
    plain = {tag: values for tag, values in GREY_TIFF.items() if tag not in (STRIPS, ROWS, COUNTS)}
    more = {
        COMPRESSION: (8,),
        TILE_WIDTH: (side,),
        TILE_HEIGHT: (side,),
        TILES: (DATA_AT,),
        TILE_COUNTS: (len(data),),
    }
    return tiff({**plain, **more}, data)


def gif(
    width: int = 8,
    height: int = 8,
    before: bytes = b"",
    frame: tuple[int, int, int, int] = (0, 0, 8, 8),
    bits: int = 2,
) -> bytes:
    """A GIF of one frame of four colours; `before`: blocks before it."""
    screen = struct.pack("<HHBBB", width, height, 0x81, 0, 0) + bytes(range(12))
    return (
        b"GIF89a"
        + screen
        + before
        + b","
        + struct.pack("<HHHH", *frame)
        + b"\0"
        + bytes([bits])
        + b"\5\x84\x8f\xa9\xcb\xed\0;"
    )


def scans(count: int, side: int) -> bytes:
    """A JPEG that paints the whole of side x side pixels `count` times, with ten bytes each."""
    frame = struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\1\x11\0"
    tables = b"".join(
        b"\xff\xc4" + struct.pack(">H", 20) + kind + bytes([1, *[0] * 15, 0]) for kind in (b"\0", b"\x10")
    )
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


BROKEN_EXIF = (
    b"",
    b"nothing of the sort",
    b"MM\0*",
    b"II*\0\xff\xff\xff\xff",
    b"II*\0\x08\0\0\0\xff\xff",  # 65,535 entries that aren't there
    b"II*\0\x08\0\0\0\2\0\x12\1\3\0\1\0\0\0",  # cut in its first
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\4six\0\0\0\0\0",  # turned "six"
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\0\0\0\0\0\0\0\0\0",  # turned nothing
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63\0\0\0\0\0\0",  # turned 99
    b"MM\0*\0\0\0\x08\0\1\1\x1a\0\5\0\0\0\1\xff\xff\xff\0\0\0\0\0",  # a resolution outside
    b"MM\0*\0\0\0\x08\0\2\1\x1a\0\5\0\0\0\1\0\0\0\x08\1\x28\0\2\0\0\0\1\0\0\0\0\0\0\0\0",
)


def with_exif(form: str, content: bytes, image: Image.Image | None = None) -> bytes:
    """A JPEG, PNG, WebP or TIFF with this as its EXIF, whatever it is."""
    image = image or drawn()
    if form == "JPEG":
        whole, body = encoded(image, "JPEG"), b"Exif\0\0" + content
        return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]
    if form == "PNG":
        whole = encoded(image, "PNG")
        return whole[:33] + chunk(b"eXIf", content) + whole[33:]
    if form == "WEBP":
        return encoded(image, "WEBP", exif=content or b"Exif\0\0")
    # the directory of a TIFF's EXIF is a place in the file
    return encoded(image, "TIFF", tiffinfo={34665: 8 + len(content), 700: content or b"\0"})


def deep_png(values: np.ndarray, significant: int | None = None) -> bytes:
    """A PNG of 16 bits, grey [H, W] or colors [H, W, 3], with so many of them `significant` by its sBIT."""
    rows = values.astype(">u2").reshape(len(values), -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    color_type = 0 if values.ndim == 2 else 2
    depths = bytes([significant] * (1 if values.ndim == 2 else 3)) if significant else b""
    before = chunk(b"sBIT", depths) if significant else b""
    return png(values.shape[1], values.shape[0], 16, color_type, data, before)


def striped_pictures(folder: Path, side: int) -> Path:
    """Three classes of 20 pictures [side, side]: bright at the left, in the middle, at the right."""
    for place, name in enumerate(("left", "middle", "right")):
        (folder / name).mkdir()
        for number in range(20):
            values = np.random.default_rng(100 * place + number).integers(0, 120, (side, side, 3), np.uint8)
            values[:, place * side // 3 : (place + 1) * side // 3] += 120
            Image.fromarray(values).save(folder / name / f"{number}.png")
    return folder
