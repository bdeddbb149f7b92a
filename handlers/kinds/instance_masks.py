"""Instance masks: from the small mask that a graph gives for a box to the pixels of the picture, and to the
forms in which it is sent.

A mask is laid on its box as torchvision does (`roi_heads.paste_masks_in_image`), but only where the box is,
so that large pictures with many boxes stay cheap. It is sent as COCO's run lengths (`inputs.masks`), or as
polygons around its pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..inputs.masks import between, compressed, places

FORMATS = ("none", "rle", "compressed_rle", "polygons")
ABOUT = (
    "outlines of what is found; rle, compressed_rle: COCO's run lengths; polygons: lists x1, y1, x2, y2, … "
    "around its parts, holes filled"
)
MAX_PIXELS = 12_000_000  # of a picture that is sent, whose masks have its size
LIKELY = 0.5  # a pixel belongs to the object from this probability on
# pixels that a polygon may pass beside a corner of the mask: a slanting line isn't sent as stairs
TOLERANCE = 0.75
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # rows and columns of a step to the right, down, to the left, up


@dataclass(frozen=True)
class Instance:
    """One object's pixels, bool [h, w], with the place of their first row and column in a picture of
    `size` (width, height).
    """

    pixels: np.ndarray
    left: int
    top: int
    size: tuple[int, int]

    def run_lengths(self) -> list[int]:
        """Counts of the mask of the whole picture, as `inputs.masks.run_lengths` has them."""
        height, total = self.size[1], self.size[0] * self.size[1]
        # columns are what is run along
        edges = np.diff(np.pad(self.pixels.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        columns, rows = np.nonzero(edges)
        places = (columns + self.left) * height + rows + self.top  # beginnings and ends in turn
        # from the foot of a column to the head of the next
        goes_on = np.flatnonzero(places[1:-1:2] == places[2::2])
        places = np.delete(places, np.concatenate([2 * goes_on + 1, 2 * goes_on + 2]))
        counts: list[int] = np.diff(np.concatenate([[0], places, [total]])).tolist()
        return counts if len(counts) == 1 or counts[-1] else counts[:-1]

    def polygons(self) -> list[list[float]]:
        """Its parts' outlines, [x1, y1, x2, y2, ...] in pixels of the picture, clockwise; see `outlines`."""
        place = np.array([self.left, self.top])
        return [(corners + place).ravel().tolist() for corners in outlines(self.pixels)]

    def sent(self, form: str) -> dict[str, Any]:
        """{"size": [height, width]} with "counts" or "polygons", for one of FORMATS."""
        size = [self.size[1], self.size[0]]
        if form == "polygons":
            return {"size": size, "polygons": self.polygons()}
        counts = self.run_lengths()
        return {"size": size, "counts": compressed(counts) if form == "compressed_rle" else counts}


def place_mask(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> Instance:
    """A graph's `mask` (probabilities float32 [s, s]) of a `box` (x1, y1, x2, y2) in pixels of a picture of
    `size` (width, height).

    The box may reach beyond the picture; what does is cut off.
    """
    grown = (len(mask) + 2) / len(mask)  # one cell of nothing around, so that it fades out
    centre, half = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * grown
    left, top, right, bottom = np.concatenate([centre - half, centre + half]).astype(np.int64).tolist()
    wide, high = max(1, right - left + 1), max(1, bottom - top + 1)
    first, last = (max(0, left), max(0, top)), (min(size[0], left + wide), min(size[1], top + high))
    cells = np.pad(mask, 1)
    across = [
        part[first[0] - left : max(first[0], last[0]) - left] for part in places(wide, 0, wide, len(cells))
    ]
    down = [part[first[1] - top : max(first[1], last[1]) - top] for part in places(high, 0, high, len(cells))]
    likely = between(between(cells, 1, across[0], across[1], across[2]), 0, down[0], down[1], down[2])
    return Instance(likely > LIKELY, *first, size)


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons around the parts of a mask, bool [h, w]: the corners of each, float64 [N, 2] as x and y,
    clockwise, holes left out.

    Corners are those of pixels, so that a polygon through all of them holds exactly its part's pixels; then
    those are dropped beside which it may pass by TOLERANCE (Douglas and Peucker 1973). Pixels that touch at a
    corner alone are parts of their own.
    """
    around = np.pad(mask, 1)
    inner = around[1:-1, 1:-1]
    # edges from each corner on, the mask at their right hand
    free = np.zeros((4, mask.shape[0] + 1, mask.shape[1] + 1), bool)
    free[0, :-1, :-1] = inner & ~around[:-2, 1:-1]
    free[1, :-1, 1:] = inner & ~around[1:-1, 2:]
    free[2, 1:, 1:] = inner & ~around[2:, 1:-1]
    free[3, 1:, :-1] = inner & ~around[1:-1, :-2]
    found = []
    for row, column in np.argwhere(free[0]).tolist():
        if free[0, row, column]:
            corners = _walked(free, row, column)
            x, y = corners.T
            if (x * np.roll(y, -1)).sum() > (y * np.roll(x, -1)).sum():  # else it goes around a hole
                found.append(_simplified(corners))
    return found


def _walked(free: np.ndarray, row: int, column: int) -> np.ndarray:
    """The corners of the outline that begins there, to the right; its edges are no longer free."""
    corners: list[tuple[int, int]] = []
    heading = 0
    while free[heading, row, column]:
        free[heading, row, column] = False
        row, column = row + STEPS[heading][0], column + STEPS[heading][1]
        turned = next(
            (way % 4 for way in (heading + 1, heading, heading + 3) if free[way % 4, row, column]), 0
        )
        if turned != heading or (row, column) == (corners[0] if corners else None):
            corners.append((row, column))
        heading = turned
    return np.array(corners, float)[:, ::-1]


def _simplified(corners: np.ndarray) -> np.ndarray:
    """Without the corners that TOLERANCE allows to be dropped; never fewer than three."""
    many = len(corners)
    opposite = int(((corners - corners[0]) ** 2).sum(1).argmax())
    ring, keep, parts = (
        np.vstack([corners, corners[:1]]),
        np.zeros(many + 1, bool),
        [(0, opposite), (opposite, many)],
    )
    keep[[0, opposite]] = True
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        (x, y), between = ring[last] - ring[first], ring[first + 1 : last] - ring[first]
        away = np.abs(between[:, 0] * y - between[:, 1] * x) / max(np.hypot(x, y), 1e-9)
        if away.max() > TOLERANCE:
            middle = first + 1 + int(away.argmax())
            keep[middle] = True
            parts += [(first, middle), (middle, last)]
    return corners[keep[:many]] if keep[:many].sum() > 2 else corners
