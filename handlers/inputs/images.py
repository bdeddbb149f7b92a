"""Pictures: bytes -> Pillow image -> the graph's uint8 array, and its places back to the picture's pixels.

The one transform of both sides: training evaluates with `prepare`, the server serves with it, so there is no
skew. Limits are checked from the header, before anything is decoded. Normalisation is not here: it is in the
graph.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..protocol.errors import BadRequest, RequestError, TooLarge
from .image_files import identified, read_despite_metadata
from .ink import centre_ink, raster_view
from .levels import in_mode, levels_of
from .resampling import resize_bilinear

View = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the picture that was sent

FRACTIONS = (8, 4, 2)  # of its sides, at which a JPEG can be decoded
# pixels of the smaller picture per pixel of the graph's input: on photos 2 differ by up to 18/255, 3 by 9, 4
# by 5
SPARE = 4


@dataclass(frozen=True)
class ImageInput:
    """preprocess_config.json of classifiers and detectors.

    fit   "stretch"    to height x width, whatever the proportions
          "crop"       shorter side to `resize`, then the middle height x width (torchvision's evaluation
                       transform)
          "letterbox"  whole picture, proportions kept, padded with grey 114 at the right and bottom
          "ink"        one figure on a plain ground, found, turned to light on dark and centred (inputs.ink)

    Without `antialias` a pixel of "stretch" and "letterbox" is mixed of the four nearest ones alone, however
    much the picture shrinks; so torchvision's detectors resize.

    decode  "fast"   a JPEG of more than 8 x 8 pixels per pixel of the graph's input is decoded at a half,
                     quarter or eighth of its sides, where that divides them; the input differs by 5/255 or
                     less. Not with "ink" or without `antialias`
            "exact"  every picture is decoded whole

    `value_range` is the value that is white in pictures of more than 8 bits, 4095 for a camera of 12, say;
    without it their files must say it (inputs.levels).
    """

    height: int
    width: int
    mode: Literal["RGB", "L"] = "RGB"
    fit: Literal["stretch", "crop", "letterbox", "ink"] = "stretch"
    resize: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    decode: Literal["fast", "exact"] = "fast"
    value_range: float | None = None
    max_bytes: int = 10_000_000
    max_pixels: int = 50_000_000

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, height, width] of the graph's input, C = 3 (RGB) or 1 (L)."""
        return (len(self.mode), self.height, self.width)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImageInput":
        """Read the JSON; the key "input", which names the sort of input, is not a field. One without
        "decode" is older than that.
        """
        return cls(**{"decode": "exact", **{key: value for key, value in config.items() if key != "input"}})

    def as_config(self) -> dict[str, Any]:
        """The JSON, all fields written out."""
        return {"input": "image", **self.__dict__}


@dataclass(frozen=True)
class Opened:
    """A picture for the graph's input, and the width and height of the one that was sent, upright, of
    which it may be a fraction.
    """

    image: Image.Image
    size: tuple[int, int]


def open_image(
    data: bytes,
    mode: Literal["RGB", "L"] = "RGB",
    max_bytes: int = 10_000_000,
    max_pixels: int = 50_000_000,
    value_range: float | None = None,
) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF (first frame), BMP or TIFF into a Pillow image of `mode` ("RGB" or "L").

    EXIF orientation is applied, transparency is laid on white, more than 8 bits are scaled to 8
    (inputs.levels), palette and CMYK are converted; metadata that can't be read is left out. Raises
    BadRequest for what is no whole picture and TooLarge above the limits.
    """
    config = ImageInput(1, 1, mode, value_range=value_range, max_bytes=max_bytes, max_pixels=max_pixels)
    return _opened(data, config, whole=True).image


def open_input(data: bytes, config: ImageInput) -> Opened:
    """`open_image` for `prepare` with this `config`, and no more than that needs where `config.decode` is
    "fast".
    """
    return _opened(data, config, whole=False)


def _opened(data: bytes, config: ImageInput, whole: bool) -> Opened:
    if not data:
        raise BadRequest("the body is empty; send the bytes of an image")
    if len(data) > config.max_bytes:
        raise TooLarge(f"the image has {len(data):,} bytes; send at most {config.max_bytes:,}")
    with warnings.catch_warnings():
        # of odd tags, which harm nothing, and of many pixels, for which our own limit follows
        warnings.simplefilter("ignore")
        return read_despite_metadata(lambda file: _decoded(file, config, whole), data)


def _decoded(data: bytes, config: ImageInput, whole: bool) -> Opened:
    image = identified(data, config.max_pixels)
    levels, width = levels_of(image, data), image.width
    fraction = 1 if whole else _fraction(image.size, config)
    try:
        if fraction > 1:
            # does nothing where it is no JPEG
            image.draft(None, (image.width // fraction, image.height // fraction))
        fraction = width // image.width
        image.load()
        picture = in_mode(image, config.mode, levels, config.value_range, config.fit == "ink")
    except RequestError:
        raise
    except Exception as error:  # what Pillow raises at damaged bytes differs by version
        raise BadRequest(
            f"the {image.format or ''} image is damaged or cut off; send a whole file"
        ) from error
    return Opened(picture, (picture.width * fraction, picture.height * fraction))


def _fraction(size: tuple[int, int], config: ImageInput) -> int:
    """1/n of its sides is enough of a picture of `size`, or of one turned by its EXIF orientation.

    It divides both sides: then the smaller picture has the same proportions, and `prepare` places it as it
    would the whole one.
    """
    if config.decode == "exact" or config.fit == "ink" or not config.antialias:
        return 1
    shrinks = []
    for way in (size, size[::-1]):
        left, top, right, bottom = view_of_size(way, config)
        shrinks += [(right - left) / config.width, (bottom - top) / config.height]
    return next(
        (n for n in FRACTIONS if min(shrinks) >= n * SPARE and size[0] % n == 0 and size[1] % n == 0), 1
    )


def prepare(image: Image.Image, config: ImageInput, slot: np.ndarray | None = None) -> np.ndarray:
    """A picture of `config.mode` as the graph's input, uint8 of `config.shape`: written into `slot`, which
    is returned, if there is one.
    """
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


def _resized(
    image: Image.Image, size: tuple[int, int], config: ImageInput, view: View | None = None
) -> Image.Image:
    if config.antialias:
        return image.resize(size, Image.Resampling[config.interpolation.upper()], box=view)
    return resize_bilinear(image, size)


def view_of(image: Image.Image, config: ImageInput) -> View:
    """The part of `image` that the graph's input covers; padding and margins may reach beyond the picture.

    Under fit "ink" the figure is searched again, as `prepare` did. Raises BadRequest where that finds
    none.
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


def boxes_to_image(
    boxes: np.ndarray, size: tuple[int, int], config: ImageInput, clip: bool = True
) -> np.ndarray:
    """Boxes [N, 4] from pixels of the graph's input to pixels of the picture of `size` (width, height),
    clipped to it if asked for.
    """
    left, top, right, bottom = view_of_size(size, config)
    factor = np.array([(right - left) / config.width, (bottom - top) / config.height] * 2, boxes.dtype)
    placed: np.ndarray = boxes * factor + np.array([left, top] * 2, boxes.dtype)
    return placed.clip(0, np.array([*size, *size], boxes.dtype)) if clip else placed


def boxes_to_input(boxes: np.ndarray, size: tuple[int, int], config: ImageInput) -> np.ndarray:
    """Boxes [N, 4] from pixels of the picture of `size` (width, height) to pixels of the graph's input,
    not clipped to it.
    """
    left, top, right, bottom = view_of_size(size, config)
    factor = np.array([config.width / (right - left), config.height / (bottom - top)] * 2, boxes.dtype)
    placed: np.ndarray = (boxes - np.array([left, top] * 2, boxes.dtype)) * factor
    return placed
