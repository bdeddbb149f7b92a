"""A folder of one's own with pictures and outlines of what they show (COCO json), as label maps for segmentation.

Class 0 is the background; objects of one class are one area, and where objects overlap, the smaller one lies on top.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from marina.errors import CallError
from training.datasets import Example, ImageData, coco, object_folder

from bundle_masks import MAX_CLASSES

LOG = logging.getLogger("marina")
BACKGROUND = "background"
IGNORED = MAX_CLASSES  # the value of pixels that count for nothing: crowds


def load(folder: Path, seed: int) -> ImageData:
    """As `object_folder.load`, with "background" before the classes. Raises CallError for a folder without outlines."""
    data = object_folder.load(folder, seed)
    if BACKGROUND in data.classes or len(data.classes) + 1 > MAX_CLASSES:
        raise CallError(f"{folder} must have at most {MAX_CLASSES - 1} classes, none of them called {BACKGROUND!r}, which is added")
    splits = {name: _with_outlines(getattr(data, name), folder) for name in ("train", "validation", "test")}
    for name, examples in splits.items():
        if not any(example.outlines for example in examples):
            raise CallError(f'{folder} has no outlines for {name}; give COCO json with a "segmentation" (polygons or RLE) per object')
    return replace(
        data,
        classes=(BACKGROUND, *data.classes),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
    )


def _with_outlines(examples: Sequence[Example], folder: Path) -> list[Example]:
    """Without the pictures whose objects have boxes alone: what they show would be taught as background."""
    whole = [example for example in examples if example.outlines or not len(example.labels)]
    if len(whole) < len(examples):
        LOG.warning("%s: %d picture(s) with boxes and no outlines left out", folder, len(examples) - len(whole))
    return whole


def label_map(example: Example, width: int, height: int) -> np.ndarray:
    """The class of every pixel, uint8 [height, width]; IGNORED where none counts. An outline that can't be read costs a warning."""
    filled: list[tuple[int, np.ndarray]] = []
    for label, outline in example.outlines:
        try:
            filled.append((label, coco.filled(outline, width, height)))
        except (ValueError, TypeError, KeyError) as error:
            LOG.warning("%s: an outline is left out: %s", example.image, error)
    labels = np.zeros((height, width), np.uint8)
    for label, inside in sorted(filled, key=lambda pair: -int(pair[1].sum())):
        labels[inside] = IGNORED if label < 0 else label + 1
    return labels
