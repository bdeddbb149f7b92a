"""Sound pictures of every format with metadata of any content in every place that the format has for it."""

import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from handlers.inputs.image_files import PIXEL_TAGS, png_chunks
from handlers.inputs.images import open_image
from tests.support.picture_files import BROKEN_EXIF, chunk, drawn, encoded

PICTURE = drawn(21, 17)
# what some programs put in front of a JPEG's metadata; APP0 and APP14 say what its colors are
JPEG_PREFIXES = (
    *(
        b"",
        b"Exif\0\0",
        b"http://ns.adobe.com/xap/1.0/\0",
        b"ICC_PROFILE\0\1\1",
        b"ICC_PROFILE\0\1\2",
        b"MPF\0",
    ),
    *(b"Photoshop 3.0\08BIM\4\4\0\0", b"Photoshop 3.0\08BIM\3\xed\0\0", b"JPS", b"FPXR\0"),
)
# APP1 to APP13, APP15, a comment
JPEG_MARKS = (*range(0xE1, 0xEE), 0xEF, 0xFE)
PNG_CHUNKS = (
    *(
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"iCCP",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"pHYs",
        b"tIME",
        b"bKGD",
        b"hIST",
        b"sPLT",
    ),
    *(b"eXIf", b"sBIT", b"oFFs", b"pCAL", b"cICP", b"mDCV", b"cLLI", b"teSt", b"caBX"),
)
KEYWORDS = (
    b"",
    b"a\0",
    b"a\0\0",
    b"XML:com.adobe.xmp\0\0\0\0\0",
    b"Raw profile type exif\0",
    b"icc\0\0",
    b"\0\0",
)
GIF_LABELS = (0xFE, 0xFF, 0x42)  # a comment, an application's, unknown
TIFF_TAGS = sorted(
    {*range(250, 700), 700, 33432, 33723, 34377, 34665, 34675, 34853, 37510, 65000} - PIXEL_TAGS
)


exif = st.sampled_from(BROKEN_EXIF) | st.binary(max_size=40).map(b"II*\0\x08\0\0\0".__add__)
xmp = st.sampled_from([b'<x tiff:Orientation="', b"<x tiff:Orientation>9</x>", b"<x:xmpmeta", b"\xff\xfe<"])
junk = st.one_of(exif, xmp, st.binary(max_size=60), st.binary(max_size=60).map(zlib.compress))


@st.composite
def segments(draw: Callable[..., Any]) -> bytes:
    """A segment of a JPEG."""
    body = draw(st.sampled_from(JPEG_PREFIXES)) + draw(junk)
    return bytes([0xFF, draw(st.sampled_from(JPEG_MARKS))]) + struct.pack(">H", len(body) + 2) + body


@st.composite
def jpegs(draw: Callable[..., Any]) -> bytes:
    """A JPEG with some segments more, each whole."""
    whole = encoded(PICTURE, "JPEG", progressive=draw(st.booleans()))
    first, second = (b"".join(draw(st.lists(segments(), max_size=2))) for _ in range(2))
    return whole[:2] + first + whole[2:20] + second + whole[20:]  # JFIF lies between


@st.composite
def pngs(draw: Callable[..., Any]) -> bytes:
    """A PNG with some ancillary chunks more, in any place, their checksums right or wrong."""
    whole = encoded(PICTURE, "PNG")
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from(KEYWORDS)) + draw(junk)
        extra = chunk(draw(st.sampled_from(PNG_CHUNKS)), content)
        if draw(st.integers(0, 3)) == 0:
            extra = extra[:-4] + b"\0\0\0\0"
        place = draw(st.sampled_from([one.start for one in png_chunks(whole)][1:]))
        whole = whole[:place] + extra + whole[place:]
    return whole


@st.composite
def webps(draw: Callable[..., Any]) -> bytes:
    """A lossless WebP with EXIF, XMP and a color profile."""
    return encoded(PICTURE, "WEBP", lossless=True, exif=draw(junk), xmp=draw(junk), icc_profile=draw(junk))


@st.composite
def gifs(draw: Callable[..., Any]) -> bytes:
    """A GIF with some extensions more in front of its picture."""
    whole = encoded(PICTURE, "GIF")
    place = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    for _ in range(draw(st.integers(1, 3))):
        label = draw(st.sampled_from(GIF_LABELS))
        blocks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=3))
        extension = bytes([0x21, label]) + b"".join(bytes([len(one)]) + one for one in blocks) + b"\0"
        whole = whole[:place] + extension + whole[place:]
    return whole


@st.composite
def tiffs(draw: Callable[..., Any]) -> bytes:
    """A TIFF with some tags more: of any type, count and value, or place of it."""
    whole = encoded(PICTURE, "TIFF", compression=draw(st.sampled_from(["raw", "tiff_lzw", "packbits"])))
    (place,) = struct.unpack_from("<I", whole, 4)
    (count,) = struct.unpack_from("<H", whole, place)
    entries = [whole[place + 2 + 12 * index :][:12] for index in range(count)]
    for tag in draw(st.lists(st.sampled_from(TIFF_TAGS), min_size=1, max_size=3, unique=True)):
        kind, many = draw(st.integers(0, 14)), draw(st.sampled_from([0, 1, 2, 9, 1 << 16, (1 << 32) - 1]))
        value = draw(st.sampled_from([0, 1, 8, 60, 1 << 20, (1 << 32) - 1]))
        entries.append(struct.pack("<HHII", tag, kind, many, value))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return whole[:4] + struct.pack("<I", len(whole)) + whole[8:] + directory


FORMS = {"JPEG": jpegs(), "PNG": pngs(), "WEBP": webps(), "GIF": gifs(), "TIFF": tiffs()}
# (format, a file whose pixels are PICTURE's as that format keeps them)
files_with_metadata = st.one_of(*(st.tuples(st.just(form), one) for form, one in FORMS.items()))


@cache
def expected(form: str) -> frozenset[tuple[tuple[int, int], bytes]]:
    """Sizes and pixels that such a file may be read as: the picture's own, turned in any way, since EXIF and
    XMP of any content may say so.
    """
    options = {"lossless": True} if form == "WEBP" else {}
    picture = open_image(encoded(PICTURE, form, **options))
    turned = [picture, *(picture.transpose(turn) for turn in Image.Transpose)]
    return frozenset((one.size, one.tobytes()) for one in turned)
