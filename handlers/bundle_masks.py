"""Masks: from a graph's class logits to a label for every pixel of the picture, and the forms in which masks are sent.

A label map is a PNG whose values are class indices and whose palette shows them. Single masks are COCO's run lengths (Lin et al.
2014; the format is the one of pycocotools, maskApi.c): counts of 0s and 1s in turn, 0s first, down the columns; as a list, or
compressed to text: differences to the count before the last, in groups of five bits from the lowest on, each plus 48.
"""

import base64
import binascii
import colorsys
import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from bundle_images import ImageInput, view_of_size

VALUES_AT_ONCE = 16_000_000  # of logits at the picture's own size, which would not fit into memory for large ones
MAX_CLASSES = 255  # of a label map in bytes; 255 itself is used for pixels that count for nothing
GOLDEN_ANGLE = 0.381966  # of a turn: hues that follow each other are far apart


def label_map(logits: torch.Tensor, size: tuple[int, int], config: ImageInput) -> np.ndarray:
    """The likeliest class of every pixel of a picture of `size` (width, height): uint8 [height, width].

    `logits` float [classes, h, w] cover the graph's input; they are interpolated bilinearly (pixel centres, edges repeated), rows
    by rows, and compared after it, so that outlines are as fine as the picture.
    """
    width, height = size
    scores = logits.float()
    left, top, right, bottom = view_of_size(size, config)
    columns, column_share = _between(width, left, right, scores.shape[2])
    wide = torch.lerp(scores[:, :, columns], scores[:, :, (columns + 1).clamp(max=scores.shape[2] - 1)], column_share)
    rows, row_share = _between(height, top, bottom, scores.shape[1])
    labels = np.empty((height, width), np.uint8)
    step = max(1, VALUES_AT_ONCE // (len(scores) * width))
    for start in range(0, height, step):
        above = rows[start : start + step]
        strip = torch.lerp(wide[:, above], wide[:, (above + 1).clamp(max=scores.shape[1] - 1)], row_share[start : start + step, None])
        labels[start : start + step] = strip.argmax(0).to(torch.uint8).cpu().numpy()
    return labels


def _between(pixels: int, first: float, last: float, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of `pixels` the cell before its centre, int64, and how far it is from that to the next, in 0..1; edges repeat.

    The `cells` reach from `first` to `last`, in pixels.
    """
    places = (torch.arange(pixels, dtype=torch.float64) + 0.5 - first) * cells / (last - first) - 0.5
    places = places.clamp(0, cells - 1)
    before = places.floor()
    return before.long(), (places - before).float()


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
    """The mask, bool [height, width], of counts in either form. Raises ValueError where they don't fill it exactly."""
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
    """The array of a mask as answers have it: base64 of a PNG, or {"size": [height, width], "counts"}; None for what is neither."""
    try:
        if isinstance(sent, str):
            with Image.open(io.BytesIO(base64.b64decode(sent, validate=True)), formats=("PNG",)) as image:
                return np.array(image)
        return mask_of_run_lengths(sent["counts"], *sent["size"])
    except (binascii.Error, OSError, ValueError, TypeError, KeyError):
        return None
