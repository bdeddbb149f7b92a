"""Boxes and outlines that were drawn on a picture's stored pixels, turned along with it by its EXIF
orientation.

Pictures are read upright, as they are shown. Some tools draw on the pixels as they are stored, and their
files say the width and height of those.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from handlers.inputs.masks import run_lengths
from training.data import Example, coco
from training.data.inspection import SIDEWAYS, Inspected


def is_ambiguous(example: Example, inspected: Inspected) -> bool:
    """Whether the picture is turned, and no size tells whether boxes were drawn on its stored pixels."""
    if inspected.orientation == 1 or not (len(example.boxes) or example.outlines):
        return False
    width, height = inspected.size
    sizes = {(width, height), (height, width)}
    return inspected.orientation not in SIDEWAYS or width == height or example.stated_size not in sizes


def is_of_another_size(example: Example, inspected: Inspected) -> bool:
    """Whether the annotation states a size that the picture has neither upright nor as it is stored."""
    sizes = {inspected.size}
    if inspected.orientation in SIDEWAYS:
        sizes.add(inspected.size[::-1])
    return example.stated_size is not None and example.stated_size not in sizes


def upright(example: Example, inspected: Inspected) -> Example:
    """`example` with its boxes and outlines on the picture as it is shown, where its annotation's size says
    that they were drawn on the stored pixels.
    """
    stored = inspected.size[::-1]
    if inspected.orientation not in SIDEWAYS or stored == inspected.size or example.stated_size != stored:
        return example
    corners = _turned(example.boxes.reshape(-1, 2, 2), stored, inspected.orientation)
    ordered = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)

    def turn(outline: Any) -> Any:
        return _turned_outline(outline, stored, inspected.orientation)

    return replace(
        example,
        boxes=ordered.reshape(-1, 4),
        outlines=tuple((label, turn(outline)) for label, outline in example.outlines),
        segmentations=tuple(turn(outline) for outline in example.segmentations),
    )


def _turned(points: np.ndarray, stored: tuple[int, int], orientation: int) -> np.ndarray:
    """Points [..., 2], x and y in the stored picture of `stored` (width, height), in the upright one."""
    x, y = points[..., 0], points[..., 1]
    width, height = stored
    turned = {5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x)}
    return np.stack(turned[orientation], -1)


def _turned_outline(outline: Any, stored: tuple[int, int], orientation: int) -> Any:
    """An outline that can't be read stays as it is: what uses it says so."""
    try:
        if isinstance(outline, dict):
            mask = coco.filled(outline, *stored)
            turned = {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask, 2).T, 8: np.rot90(mask, 1)}
            upright_mask = turned[orientation]
            return {"size": list(upright_mask.shape), "counts": run_lengths(upright_mask)}
        if outline is None:
            return None
        polygons = coco.polygons(outline)
        return [_turned(polygon, stored, orientation).ravel().tolist() for polygon in polygons]
    except ValueError:
        return outline
