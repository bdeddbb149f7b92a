"""A folder of one's own with pictures and outlines of what they show (COCO json), as label maps for
segmentation.

Class 0 is the background; objects of one class are one area, and where objects overlap, the smaller one lies
on top.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from handlers.inputs.masks import MAX_CLASSES
from marina.core.errors import CallError
from training.data import Example, ImageData, class_masks, coco, layouts, object_folder
from training.data.inspection import Inspected
from training.data.limits import Limits
from training.findings import Findings, inside

BACKGROUND = "background"
IGNORED = MAX_CLASSES  # the value of pixels that no metric and no loss counts: crowds


def load(
    folder: Path, seed: int, findings: Findings | None = None, limits: Limits | None = None
) -> ImageData:
    """As `object_folder.load`, with "background" before the classes. Outlines that can't be read are left out
    and go to the `findings`. Raises CallError for a folder without outlines.
    """
    findings = findings or Findings()
    if not object_folder.is_one(folder):
        seen = layouts.seen(folder, layouts.OUTLINES)
        ways = f"{object_folder.LAYOUTS}{class_masks.LAYOUT}"
        raise CallError(
            f"{folder} holds no outlines and no masks: {seen}; lay it out in one of these ways:{ways}"
        )
    data, inspected = object_folder.load_inspected(folder, seed, findings, limits or Limits())
    if BACKGROUND in data.classes or len(data.classes) + 1 > MAX_CLASSES:
        raise CallError(
            f"{folder} must have at most {MAX_CLASSES - 1} classes, none of them called {BACKGROUND!r}, "
            "which is added"
        )
    with findings.reported():
        parts: list[list[Example]] = []
        for name in ("train", "validation", "test"):
            parts.append(_with_outlines(getattr(data, name), folder, inspected, findings))
            if not any(example.outlines for example in parts[-1]):
                raise CallError(
                    f'{folder} has no outlines for {name}; give COCO json with a "segmentation" (polygons or '
                    "RLE) per object, YOLO's outlines, or a mask per picture"
                )
    train, validation, test = parts
    classes = (BACKGROUND, *data.classes)
    return replace(data, classes=classes, train=train, validation=validation, test=test)


def _with_outlines(
    examples: Sequence[Example], folder: Path, inspected: Mapping[Path, Inspected], findings: Findings
) -> list[Example]:
    """With outlines that can be read, without the pictures whose objects have boxes alone: what they show
    would be taught as background.
    """
    kept, bare, unread = [], [], []
    for example in examples:
        assert isinstance(example.image, Path)
        name, size = inside(example.image, folder), inspected[example.image].size
        sound = tuple(pair for pair in example.outlines if not coco.outline_fault(pair[1], *size))
        unread += [name] * (len(example.outlines) - len(sound))
        if sound or not len(example.labels):
            kept.append(replace(example, outlines=sound))
        else:
            bare.append(name)
    happened = "left out: no polygons and no run lengths that can be read"
    findings.add("outlines", happened, unread, sum(len(example.outlines) for example in examples))
    findings.add("pictures", "left out: they have boxes and no outlines", bare, len(examples))
    return kept


def label_map(example: Example, width: int, height: int) -> np.ndarray:
    """The class of every pixel, uint8 [height, width]; IGNORED where none counts. Raises ValueError or
    OSError for an outline or a mask that can't be read.
    """
    if example.mask is not None:
        painted: np.ndarray = example.mask.read()
        return painted
    filled = [(label, coco.filled(outline, width, height)) for label, outline in example.outlines]
    labels = np.zeros((height, width), np.uint8)
    for label, pixels in sorted(filled, key=lambda pair: -int(pair[1].sum())):
        labels[pixels] = IGNORED if label < 0 else label + 1
    return labels
