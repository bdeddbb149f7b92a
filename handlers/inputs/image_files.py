"""Files of pictures: what they are, by their header and within limits; and once more without metadata, where
that is what can't be read.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple, TypeVar

from PIL import Image

from ..protocol.errors import BadRequest, RequestError, TooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# of one file; whole ones need some hundreds, and a file of a million tiny blocks would cost Pillow seconds
MAX_READS = 20_000
# pixels, as in a JPEG; a row takes memory whatever its length, and 50 million rows too much
MAX_SIDE = 65_535
# pixels in all scans of a JPEG together: a scan of LEAST_SCAN bytes can paint the whole picture again
MAX_SCANNED = 5_000_000_000
LEAST_SCAN = 10
MAX_TEXT_BYTES = 1 << 24  # that a PNG's compressed texts and color profile may expand to, together

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
XMP = b"XML:com.adobe.xmp\0"
# of a PNG: what its pixels are made of beside the critical chunks, and what says how they are turned
PIXEL_CHUNKS, TURNING_CHUNKS = (b"tRNS", b"acTL", b"fcTL", b"fdAT"), (b"eXIf",)
COMPRESSED_CHUNKS = (b"zTXt", b"iCCP", b"iTXt")
# of a JPEG: APP1 (EXIF, XMP), APP14 (Adobe's word on its colors), the start of a scan
APP0, APP1, APP14, APP15, SCAN, COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xDA, 0xFE
# of a TIFF: the tags that its pixels are decoded by
RANGES = ((254, 260), (277, 282), (322, 326), (338, 342), (512, 522), (529, 533))
SINGLE_TAGS = (262, 266, 273, 274, 284, 292, 293, 317, 320, 332, 347)
PIXEL_TAGS = frozenset(chain(SINGLE_TAGS, *(range(*ends) for ends in RANGES)))
Read = TypeVar("Read")


class Chunk(NamedTuple):
    """A chunk of a PNG: its name, and where it begins, where its content does, and where it ends."""

    name: bytes
    start: int
    content: int
    end: int


class _Source(io.BytesIO):
    """A file that is read `most` times at most."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self.left = self.most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes. Raises TooLarge."""
        self.left -= 1
        if self.left < 0:
            raise TooLarge(
                f"the image's file is made of more than {self.most:,} pieces; save it again with any "
                "program, and send that"
            )
        return super().read(size)


def identified(data: bytes, max_pixels: int, max_reads: int = MAX_READS) -> Image.Image:
    """The image, not decoded yet: its header is within the limits. Raises BadRequest and TooLarge, also
    later while it is read.
    """
    try:
        image = Image.open(_Source(data, max_reads), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLarge(f"the image declares too many pixels; send at most {max_pixels:,}") from None
    except RequestError:
        raise
    except Exception as error:  # what Pillow raises at damaged bytes differs by version
        if data.startswith(b"\x1f\x8b"):
            raise BadRequest("the body is gzip's; say so in the header Content-Encoding: gzip") from error
        raise BadRequest(
            f"the body is no image that can be read; send one of {', '.join(FORMATS)}"
        ) from error
    pixels = max(image.width * image.height, _tile_pixels(image))
    if pixels > max_pixels or max(image.size) > MAX_SIDE:
        most = f"{max_pixels:,} in all and {MAX_SIDE:,} a side"
        raise TooLarge(
            f"the image declares {image.width} x {image.height} pixels, {pixels:,} to decode; send at most "
            f"{most}"
        )
    # counting takes a twentieth of all
    may_be_many = data.startswith(JPEG) and len(data) // LEAST_SCAN * pixels > MAX_SCANNED
    count = data.count(b"\xff\xda") if may_be_many else 0
    if count * pixels > MAX_SCANNED:
        raise TooLarge(f"the JPEG image has {count:,} scans; save it again with any program, and send that")
    # Pillow decodes them in Python, 7 s for 50 million pixels
    if image.format == "BMP" and image.info.get("compression") in (1, 2):
        raise BadRequest("the BMP image is run-length encoded, which is not read; save it without, or as PNG")
    return image


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of one tile of a TIFF, which is decoded whole, also where the picture is smaller; 1 without
    tiles.
    """
    tags = getattr(image, "tag_v2", {})
    # TileWidth, TileLength
    return math.prod(size for tag in (322, 323) if isinstance(size := tags.get(tag), int))


def read_despite_metadata(read: Callable[[bytes], Read], data: bytes) -> Read:
    """What `read` gives of a file; where it refuses that, of the file without texts, color profile and the
    like, and at last also without what says how the picture is turned: none of them is a part of the pixels.

    Raises what `read` raised first, TooLarge at once.
    """
    try:
        return read(data)
    except BadRequest as refusal:
        for keeps_turn in (True, False):
            fewer = without_metadata(data, keeps_turn)
            if fewer == data:
                continue
            try:
                return read(fewer)
            except BadRequest:
                data = fewer
        raise refusal from None


def without_metadata(data: bytes, keeps_turn: bool) -> bytes:
    """A PNG, JPEG, TIFF or GIF of its pixels alone; `keeps_turn` leaves EXIF and XMP in it. Other files, and
    what can't be followed, stay as they are.

    Raises BadRequest for a PNG whose texts expand to more than MAX_TEXT_BYTES.
    """
    if data.startswith(PNG):
        return _png_of_pixels(data, keeps_turn)
    if data.startswith(JPEG):
        return _jpeg_of_pixels(data, keeps_turn)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_of_pixels(data)
    return _gif_of_pixels(data) if data[:4] == b"GIF8" else data


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG that are whole, MAX_READS at most; their checksums may be wrong."""
    start = len(PNG)
    for _ in range(MAX_READS):
        content, name = start + 8, data[start + 4 : start + 8]
        end = content + int.from_bytes(data[start : start + 4], "big") + 4
        if len(name) < 4 or end > len(data):
            return
        yield Chunk(name, start, content, end)
        start = end


def _png_of_pixels(data: bytes, keeps_turn: bool) -> bytes:
    parts, end, left = [PNG], len(PNG), MAX_TEXT_BYTES
    for chunk in png_chunks(data):
        end = chunk.end
        content = data[chunk.content : chunk.end - 4]
        if chunk.name in COMPRESSED_CHUNKS:
            left -= _expanded(chunk.name, content, left)
        if left < 0:
            raise BadRequest(
                f"the texts in the PNG image expand to more than {MAX_TEXT_BYTES:,} bytes; save it without"
            )
        turns = chunk.name in TURNING_CHUNKS or (chunk.name == b"iTXt" and content.startswith(XMP))
        is_critical = chunk.name[:1].isupper()
        # said by a broken chunk, the number of bits is as good as unsaid
        says_bits = chunk.name == b"sBIT" and zlib.crc32(b"sBIT" + content) == _checksum(data, chunk)
        if is_critical or says_bits or chunk.name in PIXEL_CHUNKS or (keeps_turn and turns):
            parts.append(data[chunk.start : chunk.end])
    return b"".join(parts) + data[end:]


def _checksum(data: bytes, chunk: Chunk) -> int:
    return int.from_bytes(data[chunk.end - 4 : chunk.end], "big")


def _expanded(name: bytes, content: bytes, most: int) -> int:
    """Bytes that a chunk's compressed text expands to, one more than `most` at most; 0 where there is
    none.
    """
    packed = content.partition(b"\0")[2][1:]  # behind the keyword, and the method or whether there is one
    if name == b"iTXt":
        if not content.partition(b"\0")[2].startswith(b"\1"):
            return 0
        packed = packed[1:].split(b"\0", 2)[-1]  # behind the method, the language and the keyword in it
    reader, total = zlib.decompressobj(), 0
    try:
        while packed and total <= most:
            total += len(reader.decompress(packed, 1 << 16))
            packed = reader.unconsumed_tail
    except zlib.error:
        pass
    return total


def _jpeg_of_pixels(data: bytes, keeps_turn: bool) -> bytes:
    parts, start = [JPEG], len(JPEG)
    for _ in range(MAX_READS):
        mark, kind = data[start : start + 1], data[start + 1 : start + 2]
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if mark != b"\xff" or not kind or kind[0] in (SCAN, 0xFF, 0xD9) or end > len(data):
            break
        is_metadata = APP0 < kind[0] <= APP15 and kind[0] != APP14
        if not (is_metadata or kind[0] == COMMENT) or (keeps_turn and kind[0] == APP1):
            parts.append(data[start:end])
        start = end
    return b"".join(parts) + data[start:]


def _gif_of_pixels(data: bytes) -> bytes:
    """Without comments and applications' blocks; what controls frames stays."""
    parts, start = [], 0
    place = 13 + _colors_size(data[10:11])
    while data[place : place + 1] in (b"!", b","):
        is_metadata = data[place : place + 1] == b"!" and data[place + 1 : place + 2] != b"\xf9"
        if is_metadata:
            parts.append(data[start:place])
        # behind the label; behind the frame's place, colors and code size
        place += 2 if data[place : place + 1] == b"!" else 11 + _colors_size(data[place + 9 : place + 10])
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
        if is_metadata:
            start = place
    return b"".join(parts) + data[start:]


def _colors_size(flags: bytes) -> int:
    """Bytes of the table of colors that a GIF's screen or frame says it has."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _tiff_of_pixels(data: bytes) -> bytes:
    """With the tags of its first picture that its pixels need; entries and values stay where they are."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, place)
    except struct.error:
        return data
    start, end = place + 2, place + 2 + 12 * count
    entries = [data[at : at + 12] for at in range(start, end, 12)]
    if end + 4 > len(data):
        return data
    needed = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in PIXEL_TAGS]
    directory = struct.pack(f"{order}H", len(needed)) + b"".join(needed) + data[end : end + 4]
    return data[:place] + directory + data[place + len(directory) :]
