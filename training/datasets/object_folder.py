"""A folder of one's own with pictures and boxes, Pascal VOC or COCO, as `ImageData`.

The readers (`voc`, `coco`) give what is written; here it is checked against the pictures, so that one rule holds for both: a
fault in the data costs one warning that names the file, never the training.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

from marina.errors import CallError
from training.datasets import Example, ImageData, coco, voc

from bundle_errors import Refusal
from bundle_images import open_image

LOG = logging.getLogger("marina")
VALIDATION, TEST = 0.15, 0.15  # of a folder that isn't split already
TOLERANCE = 1.0  # pixels that a box may reach out of its picture without a warning; tools round
LAYOUTS = """
  Pascal VOC                                  COCO
    Annotations/a.xml                           instances.json    (or annotations/instances_{train,val,test}.json)
    JPEGImages/a.jpg   (or images/)             images/a.jpg
    ImageSets/Main/{train,val,test}.txt         {train,valid,test}/_annotations.coco.json with the pictures beside it
                       (may be left out)                          (also understood)"""


def load(folder: Path, seed: int) -> ImageData:
    """The pictures of `folder` with their boxes as x1, y1, x2, y2 in pixels, as written there, and classes 0 to n - 1.

    Splits that the folder names are kept; validation, and test if need be, are taken from the rest, by file name and `seed`.
    Left out with a warning: pictures that are missing or damaged, boxes without area. Cut with a warning: boxes that reach out.
    Raises CallError when `folder` has neither layout, or too few pictures with boxes.
    """
    classes, given = _given(folder)
    checked = {name: _checked(examples) for name, examples in given.items()}
    train, validation, test = _splits(checked, seed)
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not any(len(example.labels) for example in part):
            raise CallError(f"{folder} has no picture with a box for {name}; add more pictures, or split them yourself:{LAYOUTS}")
    return ImageData(folder.name, classes, train, validation, test, source=f"folder {folder.name}", licence="the owner's")


def held_out(folder: Path) -> ImageData:
    """The test split that the folder names, else its validation, else all of it, as `test`; nothing to learn from.

    Raises CallError when `folder` has neither layout, or no picture with a box.
    """
    classes, given = _given(folder, to_learn=False)
    test = _checked(next(given[split] for split in ("test", "validation", "all", "train") if given.get(split)))
    if not any(len(example.labels) for example in test):
        raise CallError(f"{folder} has no picture with a box to measure with; add some:{LAYOUTS}")
    return ImageData(folder.name, classes, [], [], test, source=f"folder {folder.name}", licence="the owner's")


def _given(folder: Path, to_learn: bool = True) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """(class names, split -> examples as written; "all" where the folder names no splits)."""
    if (folder / "Annotations").is_dir():
        return voc.read(folder)
    if files := coco.annotation_files(folder, to_learn):
        return coco.read(folder, files)
    raise CallError(f"{folder} holds no boxes that are understood; lay it out in one of these ways:{LAYOUTS}")


def _checked(examples: Sequence[Example]) -> list[Example]:
    """The examples whose pictures can be read, with boxes that lie inside them and have an area."""
    good: list[Example] = []
    for example in track(examples, "checking pictures", transient=True):
        assert isinstance(example.image, Path)
        try:
            size = open_image(example.image.read_bytes(), max_bytes=1 << 30, max_pixels=1 << 28).size
        except (OSError, Refusal) as error:
            LOG.warning("%s is left out: %s", example.image, "no such file" if isinstance(error, FileNotFoundError) else error)
            continue
        good.append(_fair(example, size))
    empty = [str(example.image) for example in good if not len(example.labels)]
    if empty:
        LOG.warning("%d pictures have no box and are kept, as ones that show nothing: %s", len(empty), _some(empty))
    return good


def _fair(example: Example, size: tuple[int, int]) -> Example:
    """`example` with its boxes cut to the picture of `size` (width, height), without those that have no area then."""
    limit = np.array([*size, *size], np.float32)
    boxes = np.clip(example.boxes, 0, limit).astype(np.float32)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    reaching = int((np.abs(boxes - example.boxes)[keep] > TOLERANCE).any(1).sum())
    dropped = int((~keep).sum())
    if dropped or reaching:
        LOG.warning("%s: %d box(es) without area left out, %d cut at the edge of the picture", example.image, dropped, reaching)
    segmentations = tuple(one for one, kept in zip(example.segmentations, keep, strict=False) if kept)
    return replace(example, boxes=boxes[keep], labels=example.labels[keep], segmentations=segmentations)


def _splits(given: dict[str, list[Example]], seed: int) -> tuple[list[Example], list[Example], list[Example]]:
    """(train, validation, test). The only second split that is given is the test; what is missing is taken from the training."""
    train, validation, test = (given.get(name, []) for name in ("train", "validation", "test"))
    if not train:
        whole = _shuffled([example for part in given.values() for example in part], seed)
        tests, validations = round(len(whole) * TEST), round(len(whole) * VALIDATION)
        return whole[tests + validations :], whole[tests : tests + validations], whole[:tests]
    if not test:
        validation, test = [], validation
    if not validation or not test:
        whole = _shuffled(train, seed)
        validations = round(len(whole) * VALIDATION) if not validation else 0
        tests = round(len(whole) * TEST) if not test else 0
        validation, test = validation or whole[:validations], test or whole[validations : validations + tests]
        train = whole[validations + tests :]
    return train, validation, test


def _shuffled(examples: Iterable[Example], seed: int) -> list[Example]:
    """In an order that depends on file names and `seed` alone, so that a picture more moves few others."""
    return sorted(examples, key=lambda example: hashlib.sha256(f"{seed} {Path(str(example.image)).name}".encode()).digest())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
