"""Bilinear resampling without antialiasing, as torch's interpolate computes it."""

import numpy as np
from PIL import Image

ROWS = 32  # that are resized at once


def resize_bilinear(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image`, RGB or L, as (width, height) `size`: each pixel mixed of the four nearest ones.

    Some rows at a time, so that intermediate values stay in the processor's cache.
    """
    width, height = size
    # a pixel is one number: picked at once
    packed, kind = ("RGBX", np.uint32) if image.mode == "RGB" else ("L", np.uint8)
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
    """Between which two of `old` pixels each of `new` lies, int64, and the share of the second, float32
    (torch's interpolate).
    """
    places = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    lower = np.minimum(places.astype(np.int64), old - 1)
    return lower, np.minimum(lower + 1, old - 1), (places - lower).astype(np.float32)
