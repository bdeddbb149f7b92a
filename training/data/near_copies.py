"""Pictures that are nearly the same: resized, compressed again, or a little brighter.

Each is described by the signs of the lowest frequencies of a small gray version (a perceptual hash, after
Zauner 2010, chapter 3.2.1). Those whose hashes differ in few bits are compared by their small versions.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE, LOW = 32, 8  # of the small version, and of the square of frequencies that counts
MOST_BITS = 6  # of 64 that may differ
BANDS = MOST_BITS + 1  # of which one is equal where no more bits differ
LEAST_CORRELATION = 0.97
FLAT = 4.0  # deviation, of 255, below which a picture shows too little to be told from another


@dataclass(frozen=True)
class Sketch:
    """The hash of a picture, and its small gray version, uint8 [SIDE, SIDE]; no hash for a flat one."""

    bits: int | None
    small: np.ndarray


def sketch(image: Image.Image) -> Sketch:
    """The sketch of a picture of any size."""
    small = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0))
    if small.std() < FLAT:
        return Sketch(None, small)
    angles = np.pi * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5) / SIDE
    cosines = np.cos(angles)  # the first rows of the discrete cosine transform
    frequencies = (cosines @ (small - small.mean()) @ cosines.T).ravel()
    signs = frequencies > np.median(frequencies[1:])
    return Sketch(int("".join("01"[int(sign)] for sign in signs), 2), small)


def near_pairs(sketches: Sequence[Sketch]) -> Iterator[tuple[int, int]]:
    """Rows of pairs that are nearly the same, in their order; each row with the first one that it resembles
    alone.
    """
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, each in enumerate(sketches):
        if each.bits is None:
            continue
        keys = list(enumerate(_bands(each.bits)))
        candidates = sorted({other for key in keys for other in buckets[key]})
        first = next((other for other in candidates if _is_near(each, sketches[other])), None)
        if first is not None:
            yield first, row
            continue  # what resembles this one resembles the first one
        for key in keys:
            buckets[key].append(row)


def _bands(bits: int) -> list[int]:
    width = -(-LOW * LOW // BANDS)
    return [bits >> (width * band) & ((1 << width) - 1) for band in range(BANDS)]


def _is_near(one: Sketch, other: Sketch) -> bool:
    assert one.bits is not None
    assert other.bits is not None
    if (one.bits ^ other.bits).bit_count() > MOST_BITS:
        return False
    return bool(np.corrcoef(one.small.ravel(), other.small.ravel())[0, 1] >= LEAST_CORRELATION)
