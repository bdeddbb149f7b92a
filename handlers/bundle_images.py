"""Pictures: bytes -> Pillow image -> the graph's uint8 tensor, and boxes back to the picture's pixels.

The one transform of both sides: training evaluates with `prepare`, the server serves with it, so there is no skew.
Limits are checked from the header, before anything is decoded. Normalisation is not here: it is in the graph.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from bundle_errors import NotUnderstood, TooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class ImageInput:
    """preprocess_config.json of classifiers and detectors.

    fit   "stretch"    to height x width, whatever the proportions
          "crop"       shorter side to `resize`, then the middle height x width (torchvision's evaluation transform)
          "letterbox"  whole picture, proportions kept, padded with grey 114 at the right and bottom
          "ink"        one figure on a plain ground, found, turned to light on dark and centred (bundle_ink)
    """

    height: int
    width: int
    mode: Literal["RGB", "L"] = "RGB"
    fit: Literal["stretch", "crop", "letterbox", "ink"] = "stretch"
    resize: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    max_bytes: int = 10_000_000
    max_pixels: int = 50_000_000

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImageInput":
        """Read the JSON; the key "input", which names the sort of input, is not a field."""
        return cls(**{key: value for key, value in config.items() if key != "input"})

    def as_config(self) -> dict[str, Any]:
        """The JSON, all fields written out."""
        return {"input": "image", **self.__dict__}


def open_image(data: bytes, mode: str = "RGB", max_bytes: int = 10_000_000, max_pixels: int = 50_000_000) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF (first frame), BMP or TIFF into a Pillow image of `mode` ("RGB" or "L").

    EXIF orientation is applied, transparency is laid on white, 16-bit depth is scaled to 8, palette and CMYK are converted.
    Raises NotUnderstood for what is no whole picture and TooLarge above the limits.
    """
    if not data:
        raise NotUnderstood("the body is empty; send the bytes of an image")
    if len(data) > max_bytes:
        raise TooLarge(f"the image has {len(data):,} bytes; send at most {max_bytes:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows, with a better message
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLarge(f"the image declares too many pixels; send at most {max_pixels:,}") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise NotUnderstood(f"the body is no image that can be read; send one of {', '.join(FORMATS)}") from error
    if image.width * image.height > max_pixels:
        raise TooLarge(f"the image declares {image.width} x {image.height} pixels; send at most {max_pixels:,} in all")
    try:
        image.load()
        return _to_mode(ImageOps.exif_transpose(image), mode)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, ZeroDivisionError, struct.error) as error:
        raise NotUnderstood(f"the {image.format or ''} image is damaged or cut off; send a whole file") from error


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        top = 65535.0 if image.mode != "F" or values.max(initial=0) > 255 else 255.0 if values.max(initial=0) > 1 else 1.0
        image = Image.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def prepare(image: Image.Image, config: ImageInput) -> torch.Tensor:
    """A picture of `config.mode` as the graph's input, uint8 [C, height, width] with C = 3 (RGB) or 1 (L)."""
    size, filter_ = (config.width, config.height), Image.Resampling[config.interpolation.upper()]
    if config.fit == "stretch":
        fitted = image.resize(size, filter_)
    elif config.fit == "crop":
        scale = config.resize / min(image.size)
        width, height = config.width / scale, config.height / scale
        left, top = max(0.0, (image.width - width) / 2), max(0.0, (image.height - height) / 2)
        box = (left, top, min(image.width, left + width), min(image.height, top + height))
        fitted = image.resize(size, filter_, box=box)
    elif config.fit == "letterbox":
        scale = letterbox_scale(image.size, config)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        fitted = Image.new(image.mode, size, 114 if image.mode == "L" else (114, 114, 114))
        fitted.paste(image.resize(inner, filter_), (0, 0))
    else:
        from bundle_ink import centre_ink

        fitted = centre_ink(image, size)
    pixels = torch.from_numpy(np.array(fitted, dtype=np.uint8))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def letterbox_scale(size: tuple[int, int], config: ImageInput) -> float:
    """Pixels of the graph's input per pixel of a picture of `size` (width, height), under fit "letterbox"."""
    return min(config.width / size[0], config.height / size[1])


def boxes_to_image(boxes: torch.Tensor, size: tuple[int, int], config: ImageInput) -> torch.Tensor:
    """Boxes [N, 4] from pixels of the graph's input to pixels of the picture of `size` (width, height), clipped to it."""
    if config.fit == "letterbox":
        scale = letterbox_scale(size, config)
        factor = boxes.new_tensor([1 / scale] * 4)
    else:
        factor = boxes.new_tensor([size[0] / config.width, size[1] / config.height] * 2)
    limit = boxes.new_tensor([*size, *size])
    return torch.minimum((boxes * factor).clamp(min=0), limit)


def boxes_to_input(boxes: torch.Tensor, size: tuple[int, int], config: ImageInput) -> torch.Tensor:
    """Boxes [N, 4] from pixels of the picture of `size` (width, height) to pixels of the graph's input."""
    if config.fit == "letterbox":
        return boxes * letterbox_scale(size, config)
    return boxes * boxes.new_tensor([config.width / size[0], config.height / size[1]] * 2)
