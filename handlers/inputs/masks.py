"""Masks: from a graph's class logits to a label for every pixel of the picture, and the forms in which masks
are sent.

A label map is a PNG whose values are class indices and whose palette shows them. Single masks are COCO's run
lengths (Lin et al. 2014; the format is the one of pycocotools, maskApi.c): counts of 0s and 1s in turn, 0s
first, down the columns; as a list, or compressed to text: differences to the count before the last, in groups
of five bits from the lowest on, each plus 48.
"""

import base64
import binascii
import colorsys
import io
from typing import Any

import numpy as np
from PIL import Image

from .images import ImageInput, view_of_size

ROWS_AT_ONCE = 64  # of logits at the picture's own size: so they stay in the processor's cache
MAX_CLASSES = 255  # of a label map in bytes; 255 itself marks pixels that are ignored
GOLDEN_ANGLE = 0.381966  # of a turn: hues that follow each other are far apart

# JSON schemas of a mask's parts: [height, width]; run lengths, as a list or compressed; x1, y1, x2, y2, ...
_POSITIVE: dict[str, Any] = {"type": "integer", "minimum": 1}
SIZE_SCHEMA: dict[str, Any] = {"type": "array", "items": _POSITIVE, "minItems": 2, "maxItems": 2}
COUNTS_SCHEMA: dict[str, Any] = {
    "oneOf": [{"type": "array", "items": {"type": "integer", "minimum": 0}}, {"type": "string"}]
}
POLYGON_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 6}


def label_map(logits: np.ndarray, size: tuple[int, int], config: ImageInput) -> np.ndarray:
    """The likeliest class of every pixel of a picture of `size` (width, height): uint8 [height, width].

    `logits` float [classes, h, w] cover the graph's input; they are interpolated bilinearly (pixel centres,
    edges repeated), rows by rows, and compared after it, so that outlines are as fine as the picture.
    """
    width, height = size
    left, top, right, bottom = view_of_size(size, config)
    wide = between(logits.astype(np.float32, copy=False), 2, *places(width, left, right, logits.shape[2]))
    above, below, share = places(height, top, bottom, logits.shape[1])
    labels = np.zeros((height, width), np.uint8)
    for start in range(0, height, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        best = between(wide[0], 0, above[part], below[part], share[part])
        # one class after the other: numpy's argmax over the first axis takes several times as long
        for index in range(1, len(wide)):
            scores = between(wide[index], 0, above[part], below[part], share[part])
            np.copyto(labels[part], index, where=scores > best)
            np.maximum(best, scores, out=best)
    return labels


def places(pixels: int, first: float, last: float, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `pixels` the cells before and behind its centre, int64, and the share of the second,
    float32; edges repeat.

    The `cells` reach from `first` to `last`, in pixels.
    """
    centres = ((np.arange(pixels) + 0.5 - first) * cells / (last - first) - 0.5).clip(0, cells - 1)
    before = centres.astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (centres - before).astype(np.float32)


def between(
    values: np.ndarray, axis: int, before: np.ndarray, behind: np.ndarray, share: np.ndarray
) -> np.ndarray:
    """Linear interpolation of `values` along `axis`, at `places`."""
    one, other = values.take(before, axis), values.take(behind, axis)
    other -= one
    other *= share.reshape(-1, *[1] * (values.ndim - 1 - axis))
    other += one
    return other


def palette(count: int) -> list[tuple[int, int, int]]:
    """A colour for each class, black for the first."""
    hues = [(index * GOLDEN_ANGLE) % 1 for index in range(count)]
    bright = [colorsys.hsv_to_rgb(hue, 0.75, 0.95 if index % 2 else 0.7) for index, hue in enumerate(hues)]
    colours = [tuple(round(255 * value) for value in colour) for colour in bright]
    return [(0, 0, 0), *colours[1:]]  # type: ignore[list-item]


def png_of(labels: np.ndarray, classes: int) -> bytes:
    """A label map [H, W] as a PNG of one byte per pixel: the class's index, shown in its colour."""
    image = Image.fromarray(labels, "P")
    image.putpalette([value for colour in palette(classes) for value in colour])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def run_lengths(mask: np.ndarray) -> list[int]:
    """The counts of a mask, bool [H, W]."""
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return [0, *counts] if len(flat) and flat[0] else counts


def mask_of_run_lengths(counts: list[int] | str | bytes, height: int, width: int) -> np.ndarray:
    """The mask, bool [height, width], of counts in either form. Raises ValueError where they don't fill it
    exactly.
    """
    lengths = expanded(counts) if isinstance(counts, str | bytes) else counts
    if any(type(count) is not int or count < 0 for count in lengths) or sum(lengths) != height * width:
        raise ValueError(f"the counts add up to {sum(lengths)}, not to {height} x {width}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape((height, width), order="F")


def compressed(counts: list[int]) -> str:
    """Counts as COCO's text."""
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text.append(chr(48 + group + (32 if more else 0)))
    return "".join(text)


def expanded(text: str | bytes) -> list[int]:
    """The counts of COCO's text. Raises ValueError for what is none."""
    counts: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        group = code - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError(f"{chr(code)!r} is no part of compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the compressed run lengths are cut off")
    return counts


def read_mask(sent: Any) -> np.ndarray | None:
    """The array of a mask as answers have it: base64 of a PNG, or {"size": [height, width], "counts"};
    None for what is neither.
    """
    try:
        if isinstance(sent, str):
            with Image.open(io.BytesIO(base64.b64decode(sent, validate=True)), formats=("PNG",)) as image:
                return np.array(image)
        return mask_of_run_lengths(sent["counts"], *sent["size"])
    except (binascii.Error, OSError, ValueError, TypeError, KeyError):
        return None
