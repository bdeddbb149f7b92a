"""Pictures: bytes -> Pillow image -> the graph's uint8 array, and its places back to the picture's pixels.

The one transform of both sides: training evaluates with `prepare`, the server serves with it, so there is no skew.
Limits are checked from the header, before anything is decoded. Normalisation is not here: it is in the graph.
"""

import io
import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image

from bundle_errors import NotUnderstood, Refusal, TooLarge
from bundle_ink import centre_ink, raster_view

View = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the picture that was sent

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_READS = 20_000  # of one file; whole ones need some hundreds, and a file of a million tiny blocks would cost Pillow seconds
MAX_SIDE = 65_535  # pixels, as in a JPEG; a row takes memory whatever its length, and 50 million rows too much
MAX_SCANNED = 5_000_000_000  # pixels in all scans of a JPEG together: a scan of LEAST_SCAN bytes can paint the whole picture again
LEAST_SCAN = 10
FRACTIONS = (8, 4, 2)  # of its sides, at which a JPEG can be decoded
ROWS = 32  # that are resized at once
SPARE = 4  # pixels of the smaller picture per pixel of the graph's input: on photos 2 differ by up to 18/255, 3 by 9, 4 by 5
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation


@dataclass(frozen=True)
class ImageInput:
    """preprocess_config.json of classifiers and detectors.

    fit   "stretch"    to height x width, whatever the proportions
          "crop"       shorter side to `resize`, then the middle height x width (torchvision's evaluation transform)
          "letterbox"  whole picture, proportions kept, padded with grey 114 at the right and bottom
          "ink"        one figure on a plain ground, found, turned to light on dark and centred (bundle_ink)

    Without `antialias` a pixel of "stretch" and "letterbox" is mixed of the four nearest ones alone, however much the picture
    shrinks; so torchvision's detectors resize.

    decode  "fast"   a JPEG of more than 8 x 8 pixels per pixel of the graph's input is decoded at a half, quarter or eighth of its
                     sides, where that divides them; the input differs by 5/255 or less. Not with "ink" or without `antialias`
            "exact"  every picture is decoded whole
    """

    height: int
    width: int
    mode: Literal["RGB", "L"] = "RGB"
    fit: Literal["stretch", "crop", "letterbox", "ink"] = "stretch"
    resize: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    decode: Literal["fast", "exact"] = "fast"
    max_bytes: int = 10_000_000
    max_pixels: int = 50_000_000

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, height, width] of the graph's input, C = 3 (RGB) or 1 (L)."""
        return (len(self.mode), self.height, self.width)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImageInput":
        """Read the JSON; the key "input", which names the sort of input, is not a field. One without "decode" is older than that."""
        return cls(**{"decode": "exact", **{key: value for key, value in config.items() if key != "input"}})

    def as_config(self) -> dict[str, Any]:
        """The JSON, all fields written out."""
        return {"input": "image", **self.__dict__}


@dataclass(frozen=True)
class Opened:
    """A picture for the graph's input, and the width and height of the one that was sent, upright, of which it may be a fraction."""

    image: Image.Image
    size: tuple[int, int]


def open_image(data: bytes, mode: str = "RGB", max_bytes: int = 10_000_000, max_pixels: int = 50_000_000) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF (first frame), BMP or TIFF into a Pillow image of `mode` ("RGB" or "L").

    EXIF orientation is applied, transparency is laid on white, 16-bit depth is scaled to 8, palette and CMYK are converted.
    Raises NotUnderstood for what is no whole picture and TooLarge above the limits.
    """
    return _opened(data, mode, max_bytes, max_pixels, None).image


def open_input(data: bytes, config: ImageInput) -> Opened:
    """`open_image` for `prepare` with this `config`, and no more than that needs where `config.decode` is "fast"."""
    return _opened(data, config.mode, config.max_bytes, config.max_pixels, config)


def _opened(data: bytes, mode: str, max_bytes: int, max_pixels: int, config: ImageInput | None) -> Opened:
    if not data:
        raise NotUnderstood("the body is empty; send the bytes of an image")
    if len(data) > max_bytes:
        raise TooLarge(f"the image has {len(data):,} bytes; send at most {max_bytes:,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd tags, which harm nothing, and of many pixels, for which our own limit follows
        image = identified(data, max_pixels)
        width = image.width
        fraction = _fraction(image.size, config) if config else 1
        try:
            if fraction > 1:
                image.draft(None, (image.width // fraction, image.height // fraction))  # does nothing where it is no JPEG
            fraction = width // image.width
            image.load()
            picture = in_mode(image, mode)
        except Refusal:
            raise
        except Exception as error:  # what Pillow raises at damaged bytes is not documented and differs by version
            raise NotUnderstood(f"the {image.format or ''} image is damaged or cut off; send a whole file") from error
    return Opened(picture, (picture.width * fraction, picture.height * fraction))


def _fraction(size: tuple[int, int], config: ImageInput) -> int:
    """1/n of its sides is enough of a picture of `size`, or of one turned by its EXIF orientation.

    It divides both sides: then the smaller picture has the same proportions, and `prepare` places it as it would the whole one.
    """
    if config.decode == "exact" or config.fit == "ink" or not config.antialias:
        return 1
    shrinks = []
    for way in (size, size[::-1]):
        left, top, right, bottom = view_of_size(way, config)
        shrinks += [(right - left) / config.width, (bottom - top) / config.height]
    return next((n for n in FRACTIONS if min(shrinks) >= n * SPARE and size[0] % n == 0 and size[1] % n == 0), 1)


class _Source(io.BytesIO):
    """A file that is read `most` times at most."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self.left = self.most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes. Raises TooLarge."""
        self.left -= 1
        if self.left < 0:
            raise TooLarge(f"the image's file is made of more than {self.most:,} pieces; save it again with any program, and send that")
        return super().read(size)


def identified(data: bytes, max_pixels: int, max_reads: int = MAX_READS) -> Image.Image:
    """The image, not decoded yet: its header is within the limits. Raises NotUnderstood and TooLarge, also later while it is read."""
    try:
        image = Image.open(_Source(data, max_reads), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLarge(f"the image declares too many pixels; send at most {max_pixels:,}") from None
    except Refusal:
        raise
    except Exception as error:  # see open_image
        raise NotUnderstood(f"the body is no image that can be read; send one of {', '.join(FORMATS)}") from error
    pixels = max(image.width * image.height, _tile_pixels(image))
    if pixels > max_pixels or max(image.size) > MAX_SIDE:
        most = f"{max_pixels:,} in all and {MAX_SIDE:,} a side"
        raise TooLarge(f"the image declares {image.width} x {image.height} pixels, {pixels:,} to decode; send at most {most}")
    may_be_many = data.startswith(b"\xff\xd8") and len(data) // LEAST_SCAN * pixels > MAX_SCANNED  # counting takes a twentieth of all
    count = data.count(b"\xff\xda") if may_be_many else 0
    if count * pixels > MAX_SCANNED:
        raise TooLarge(f"the JPEG image has {count:,} scans; save it again with any program, and send that")
    if image.format == "BMP" and image.info.get("compression") in (1, 2):  # Pillow decodes them in Python, 7 s for 50 million pixels
        raise NotUnderstood("the BMP image is run-length encoded, which is not read; save it without, or as PNG")
    return image


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of one tile of a TIFF, which is decoded whole, also where the picture is smaller; 1 without tiles."""
    tags = getattr(image, "tag_v2", {})
    return math.prod(size for tag in (322, 323) if isinstance(size := tags.get(tag), int))  # TileWidth, TileLength


def _upright(image: Image.Image) -> Image.Image:
    """Turned by its EXIF orientation; ImageOps.exif_transpose also writes all other tags anew, for seconds or in vain."""
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """A decoded image upright and in `mode`, "RGB" or "L"; itself where it is so already."""
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.array(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise NotUnderstood("the image has pixels that are not finite numbers; send one without")
        top = 65535.0 if image.mode != "F" or values.max(initial=0) > 255 else 255.0 if values.max(initial=0) > 1 else 1.0
        values /= top
        image = Image.fromarray((np.clip(values, 0, 1, out=values) * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    return image if image.mode == mode else image.convert(mode)


def prepare(image: Image.Image, config: ImageInput, slot: np.ndarray | None = None) -> np.ndarray:
    """A picture of `config.mode` as the graph's input, uint8 of `config.shape`: written into `slot`, which is returned, if there is one."""
    size = (config.width, config.height)
    if config.fit == "ink":
        fitted = centre_ink(image, size)
    elif config.fit == "letterbox":
        scale = _letterbox_scale(image.size, config)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        fitted = Image.new(image.mode, size, 114 if image.mode == "L" else (114, 114, 114))
        fitted.paste(_resized(image, inner, config), (0, 0))
    else:
        fitted = _resized(image, size, config, view_of_size(image.size, config))
    planes = np.empty(config.shape, np.uint8) if slot is None else slot
    for plane, band in zip(planes, fitted.getbands(), strict=True):
        plane.data.cast("B")[:] = fitted.tobytes("raw", band)  # in a third of numpy's time for the same
    return planes


def _resized(image: Image.Image, size: tuple[int, int], config: ImageInput, view: View | None = None) -> Image.Image:
    if config.antialias:
        return image.resize(size, Image.Resampling[config.interpolation.upper()], box=view)
    return _mixed(image, size)


def _mixed(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Each pixel mixed of the four nearest ones; some rows at a time, so that what is in between stays in the processor's cache."""
    width, height = size
    packed, kind = ("RGBX", np.uint32) if image.mode == "RGB" else ("L", np.uint8)  # a pixel is one number: picked at once
    pixels = np.frombuffer(image.tobytes("raw", packed), kind).reshape(image.height, image.width)
    (upper, lower, down), (left, right, across) = _nearest(image.height, height), _nearest(image.width, width)
    across = across.repeat(pixels.itemsize)
    made = np.empty((height, width), kind)

    for start in range(0, height, ROWS):
        rows = slice(start, start + ROWS)
        above, below, share = pixels[upper[rows]], pixels[lower[rows]], down[rows, None]
        one, other = (_between(above.take(side, 1), below.take(side, 1), share) for side in (left, right))
        made.view(np.uint8)[rows] = _weighted(one, other, across) + 0.5
    return Image.frombytes(image.mode, size, made, "raw", packed)


def _between(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    return _weighted(one.view(np.uint8).astype(np.float32), other.view(np.uint8).astype(np.float32), share)


def _weighted(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`share` of the other, the rest of the one; both are float32 and written over."""
    one *= 1 - share
    other *= share
    one += other
    return one


def _nearest(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which two of `old` pixels each of `new` lies, int64, and the share of the second, float32 (torch's interpolate)."""
    places = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    lower = np.minimum(places.astype(np.int64), old - 1)
    return lower, np.minimum(lower + 1, old - 1), (places - lower).astype(np.float32)


def view_of(image: Image.Image, config: ImageInput) -> View:
    """The part of `image` that the graph's input covers; padding and margins may reach beyond the picture.

    Under fit "ink" the figure is searched again, as `prepare` did. Raises NotUnderstood where that finds none.
    """
    return raster_view(image) if config.fit == "ink" else view_of_size(image.size, config)


def view_of_size(size: tuple[int, int], config: ImageInput) -> View:
    """`view_of` a picture of `size` (width, height), for every fit that needs no more than the size."""
    width, height = size
    if config.fit == "letterbox":
        scale = _letterbox_scale(size, config)
        return (0.0, 0.0, config.width / scale, config.height / scale)
    if config.fit == "crop":
        # in whole pixels of the resized picture, as torchvision cuts
        short = min(size)
        wide, high = (config.resize * side // short for side in size)
        left, top = max(0, round((wide - config.width) / 2)), max(0, round((high - config.height) / 2))
        right, bottom = min(wide, left + config.width), min(high, top + config.height)
        return (left * width / wide, top * height / high, right * width / wide, bottom * height / high)
    return (0.0, 0.0, float(width), float(height))


def _letterbox_scale(size: tuple[int, int], config: ImageInput) -> float:
    """Pixels of the graph's input per pixel of a picture of `size` (width, height), under fit "letterbox"."""
    return min(config.width / size[0], config.height / size[1])


def boxes_to_image(boxes: np.ndarray, size: tuple[int, int], config: ImageInput, clip: bool = True) -> np.ndarray:
    """Boxes [N, 4] from pixels of the graph's input to pixels of the picture of `size` (width, height), clipped to it if asked for."""
    left, top, right, bottom = view_of_size(size, config)
    factor = np.array([(right - left) / config.width, (bottom - top) / config.height] * 2, boxes.dtype)
    placed: np.ndarray = boxes * factor + np.array([left, top] * 2, boxes.dtype)
    return placed.clip(0, np.array([*size, *size], boxes.dtype)) if clip else placed


def boxes_to_input(boxes: np.ndarray, size: tuple[int, int], config: ImageInput) -> np.ndarray:
    """Boxes [N, 4] from pixels of the picture of `size` (width, height) to pixels of the graph's input, not clipped to it."""
    left, top, right, bottom = view_of_size(size, config)
    factor = np.array([config.width / (right - left), config.height / (bottom - top)] * 2, boxes.dtype)
    placed: np.ndarray = (boxes - np.array([left, top] * 2, boxes.dtype)) * factor
    return placed
