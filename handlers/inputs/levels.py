"""From a decoded picture of any mode to 8 bits of color or grey, upright.

A file of more than 8 bits need not say which value is white: a camera's 12 bits in a file of 16 look black.
White is, in this order: the `value_range` of the model's spec; what the file says (a PNG's sBIT, a TIFF's
MaxSampleValue or BitsPerSample); 1 or 255 for floats and 255 for whole numbers of 32 bits that keep within;
else the largest value that the file can hold, if the picture uses at least half of that. A picture that
doesn't is refused: nobody can tell a dark one from one on another scale.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from ..protocol.errors import BadRequest
from .image_files import png_chunks

EIGHT_BIT_WHITE, SIXTEEN_BITS, SIGNED_SIXTEEN_BITS = 255.0, 65_535, 32_767
DEPTH, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
LOWEST, HIGHEST = (280, 340), (281, 341)  # MinSampleValue, SMinSampleValue; the same with Max
SIGNED = 2
# EXIF orientation -> how stored pixels are turned
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
REMEDY = "send it with 8 bits, or in a file that says its white (sBIT in a PNG, MaxSampleValue in a TIFF)"


@dataclass(frozen=True)
class Levels:
    """What the values of a picture mean, as far as its file says it.

    bits      of one value in the file; of 8 or less nothing else counts
    black     the value that is black
    whites    which value is white: the first of these, in rising order, that no pixel exceeds
    largest   the largest value that the file can hold
    inverted  whether white and black change places
    """

    bits: int = 8
    black: float = 0.0
    whites: tuple[float, ...] = ()
    largest: int = SIXTEEN_BITS
    inverted: bool = False


EIGHT_BITS = Levels()


def levels_of(image: Image.Image, data: bytes) -> Levels:
    """What a file says of its picture, which is identified and not decoded yet."""
    if image.format == "PNG" and data[24:25] == b"\x10":
        return Levels(16, whites=_significant(data))
    tags = getattr(image, "tag_v2", {})
    bits = int(_first(tags, (DEPTH,)) or 8)
    if image.format != "TIFF" or bits <= 8:
        return EIGHT_BITS
    black, white = _first(tags, LOWEST) or 0.0, _first(tags, HIGHEST)
    if white is None and bits < 16:
        white = 2.0**bits - 1
    is_signed = _first(tags, (SAMPLE_FORMAT,)) == SIGNED and bits == 16
    is_inverted = _first(tags, (PHOTOMETRIC,)) == 0
    largest = SIGNED_SIXTEEN_BITS if is_signed else SIXTEEN_BITS
    if white is None or white <= black:
        return Levels(bits, 0.0, (), largest, is_inverted)
    return Levels(bits, black, (white,), largest, is_inverted)


def _significant(data: bytes) -> tuple[float, ...]:
    """The `whites` of a PNG of 16 bits: by its specification the bits that sBIT calls significant are spread
    over all 16, but some programs leave them the lowest ones.
    """
    for chunk in png_chunks(data):
        if chunk.name == b"sBIT":
            bits = max(data[chunk.content : chunk.end - 4], default=0)
            return (2.0**bits - 1, float(SIXTEEN_BITS)) if 8 <= bits <= 16 else ()
        if chunk.name == b"IDAT":
            break
    return ()


def _first(tags: Any, names: tuple[int, ...]) -> float | None:
    """The first value of the first of these tags of a TIFF that is there and finite; None where none is."""
    for name in names:
        value = tags.get(name)
        value = value[0] if isinstance(value, tuple) and value else value
        try:
            number = float(value)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            continue
        if math.isfinite(number):
            return number
    return None


def in_mode(
    image: Image.Image,
    mode: str,
    levels: Levels = EIGHT_BITS,
    value_range: float | None = None,
    any_scale: bool = False,
) -> Image.Image:
    """A decoded image upright and in `mode`, "RGB" or "L"; itself where it is so already.

    `levels` are its file's. `value_range`: the value that is white in every picture of more than 8 bits.
    `any_scale`: the caller doesn't mind which grey is white. Raises BadRequest where that can't be known,
    and for values that are not finite.
    """
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image, levels, value_range, any_scale)
    elif levels.bits > 8:
        _check_colors(image, levels, value_range)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    if image.mode == "LAB":
        image = image.convert("RGB")  # Pillow knows no straight way to grey
    return image if image.mode == mode else image.convert(mode)


def _upright(image: Image.Image) -> Image.Image:
    """Turned by its EXIF orientation, if that can be read; ImageOps.exif_transpose also writes all other
    tags again, which takes seconds or fails.
    """
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # what Pillow raises at broken EXIF is not documented and differs by version
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bits(
    image: Image.Image, levels: Levels, value_range: float | None, any_scale: bool
) -> Image.Image:
    """Grey of more than 8 bits -> mode L."""
    values = np.array(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise BadRequest("the image has pixels that are not finite numbers; send one without")
    lowest, highest = float(values.min()), float(values.max())
    white = _white(levels, highest, value_range)
    black = levels.black if value_range is None and white is not None else 0.0
    if white is None:
        white = _guessed(image.mode, levels, highest, any_scale)
    if lowest < black or highest > white:
        raise BadRequest(
            "the image has values beyond black and white, as its file or training.value_range has them; they"
            f" go from {lowest:g} to {highest:g}, not from {black:g} to {white:g}; {REMEDY}"
        )
    values -= black
    values /= white - black
    scaled = (np.clip(values, 0, 1, out=values) * 255).astype(np.uint8)
    return Image.fromarray(255 - scaled if levels.inverted else scaled)


def _white(levels: Levels, highest: float, value_range: float | None) -> float | None:
    """The value that is white by the spec's word or the file's; None where neither says it."""
    if value_range is not None:
        return value_range
    return next((white for white in levels.whites if highest <= white), None)


def _guessed(mode: str, levels: Levels, highest: float, any_scale: bool) -> float:
    """The value that is white by the rule for files that don't say it. Raises BadRequest."""
    is_number = mode in ("F", "I") and levels.largest == SIXTEEN_BITS  # of 32 bits
    if mode == "F" and highest <= 1:
        return 1.0
    if is_number and highest <= EIGHT_BIT_WHITE:
        return EIGHT_BIT_WHITE
    if any_scale or highest == 0:
        return max(highest, EIGHT_BIT_WHITE)
    if highest <= levels.largest // 2:
        raise BadRequest(
            "neither the image's file nor training.value_range says which value is white, and it might be "
            f"read as nearly black; its values end at {highest:g} of {levels.largest:,}; {REMEDY}"
        )
    return float(levels.largest)


def _check_colors(image: Image.Image, levels: Levels, value_range: float | None) -> None:
    """Of colors of 16 bits Pillow keeps the upper 8. Raises BadRequest where that isn't the picture."""
    colors = image.getextrema()[:3] if image.mode in ("RGB", "RGBA") else ()
    most = max((int(extrema[1]) for extrema in colors), default=255)  # type: ignore[index]
    highest = 256 * most + 255
    white = _white(levels, highest, value_range)
    if white is None:
        white = _guessed(image.mode, levels, highest, any_scale=False)
    if white < levels.largest:
        raise BadRequest(
            f"the image has colors of {levels.bits} bits, which are read only where {levels.largest:,} is "
            f"white; here {white:g} is; send it with 8 bits"
        )
