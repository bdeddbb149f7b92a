"""A folder of one's own with pictures and boxes, Pascal VOC, COCO or YOLO, as `ImageData`.

The readers (`voc`, `coco`, `yolo`) give what is written; here it is checked against the pictures, so that one
rule holds for all: a fault in the data costs one warning that names the file, never the training.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from marina.core.errors import CallError
from training.data import Example, ImageData, coco, layouts, orientation, voc, yolo
from training.data.copies import grouped, report_copies, take
from training.data.inspection import (
    MOST_INSPECTED,
    Inspected,
    inspect_all,
    inspect_ends,
    inspect_header,
    inspect_picture,
    report_faults,
)
from training.data.limits import Limits
from training.findings import Findings, inside

VALIDATION, TEST = 0.15, 0.15  # of a folder that isn't split already
TOLERANCE = 1.0  # pixels that a box may reach out of its picture without a finding; tools round
LAYOUTS = (
    """
  Pascal VOC                                 COCO
    Annotations/a.xml                          instances.json (or annotations/instances_{train,val,test}.json)
    JPEGImages/a.jpg   (or images/)            images/a.jpg
    ImageSets/Main/{train,val,test}.txt        {train,valid,test}/_annotations.coco.json beside the pictures
                       (may be left out)                         (also understood)"""
    + yolo.LAYOUT
)


@dataclass(frozen=True)
class Given:
    """Classes and examples of `folder` by split, "all" where it names none: sound pictures, checked boxes."""

    folder: Path
    classes: tuple[str, ...]
    splits: dict[str, list[Example]]
    inspected: dict[Path, Inspected]

    def data(self, parts: Sequence[list[Example]], splits: str, findings: Findings) -> ImageData:
        """As a data set of (train, validation, test), with what is to be said of it."""
        train, validation, test = parts
        source, name, classes = f"folder {self.folder.name}", self.folder.name, self.classes
        data = ImageData(name, classes, train, validation, test, source, "the owner's", splits)
        for split, examples in (("training", data.train), ("test", data.test)):
            seen = {int(label) for example in examples for label in example.labels}
            absent = [name for k, name in enumerate(classes) if k not in seen] if examples else []
            findings.add("classes", f"have no box in {split}", absent, len(classes))
        report_copies(data, self.inspected, self.folder, findings)
        return data


def load(
    folder: Path, seed: int, findings: Findings | None = None, limits: Limits | None = None
) -> ImageData:
    """The pictures of `folder` with their boxes as x1, y1, x2, y2 in pixels of the upright picture, and
    classes 0 to n - 1.

    Splits that the folder names are kept; validation, and test if need be, are taken from the rest, by file
    name and `seed`, byte-equal copies together. To the `findings` go pictures that are left out (missing,
    damaged, above the `limits`), boxes without area, which are left out, and boxes that reach out, which are
    cut. Of more than MOST_INSPECTED pictures the headers are read, and the damaged ones to learn from are
    found when they are first decoded. Raises CallError when `folder` has no such layout, or too few pictures
    with boxes.
    """
    return load_inspected(folder, seed, findings or Findings(), limits or Limits())[0]


def load_inspected(
    folder: Path, seed: int, findings: Findings, limits: Limits
) -> tuple[ImageData, dict[Path, Inspected]]:
    """As `load`, with what was found in each picture."""
    with findings.reported():
        given = _given(folder, findings, limits)
        parts, splits = split(given, seed)
        parts = without_damaged(given, parts, findings, limits)
        for name, part in zip(("training", "validation", "test"), parts, strict=True):
            if not any(len(example.labels) for example in part):
                raise CallError(
                    f"{folder} has no picture with a box for {name}; add more pictures (byte-equal copies "
                    f"are kept in one split), or split them yourself:{LAYOUTS}"
                )
        return given.data(parts, splits, findings), given.inspected


def held_out(folder: Path, findings: Findings | None = None, limits: Limits | None = None) -> ImageData:
    """The test split that the folder names, else its validation, else all of it, as `test`; nothing to learn
    from.

    Raises CallError when `folder` has no such layout, or no picture with a box.
    """
    findings = findings or Findings()
    with findings.reported():
        given = _given(folder, findings, limits or Limits(), to_learn=False)
        names = ("test", "validation", "all", "train")
        test = next((given.splits[name] for name in names if given.splits.get(name)), [])
        if not any(len(example.labels) for example in test):
            raise CallError(f"{folder} has no picture with a box to measure with; add some:{LAYOUTS}")
        *_, test = without_damaged(given, ([], [], test), findings, limits or Limits())
        return given.data(([], [], test), "as the folder has them", findings)


def is_one(folder: Path) -> bool:
    """Whether a reader knows the layout."""
    known = (folder / "Annotations").is_dir() or coco.annotation_files(folder, to_learn=False)
    return bool(known) or yolo.is_one(folder)


def _given(folder: Path, findings: Findings, limits: Limits, to_learn: bool = True) -> Given:
    """Raises CallError where the folder has no such layout."""
    classes, splits = _read(folder, findings, to_learn)
    pictures = [example.image for examples in splits.values() for example in examples]
    inspected = inspected_pictures([path for path in pictures if isinstance(path, Path)], limits)
    report_faults(inspected, "pictures", folder, findings)
    checked = _checked(splits, folder, inspected, findings)
    if limits.value_range is not None:
        for split, examples in checked.items():
            checked[split] = [replace(example, value_range=limits.value_range) for example in examples]
    return Given(folder, classes, checked, inspected)


def _read(
    folder: Path, findings: Findings, to_learn: bool
) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """What the reader of the folder's layout gives."""
    if (folder / "Annotations").is_dir():
        return voc.read(folder, findings)
    files = coco.annotation_files(folder, to_learn)
    if yolo.is_one(folder) and not any(coco.is_likely(path) for path in files.values()):
        return yolo.read(folder, findings)
    if files := coco.annotation_files(folder, to_learn, findings):
        return coco.read(folder, files, findings)
    raise CallError(
        f"{folder} holds no boxes that are understood: {layouts.seen(folder, layouts.BOXES)}; lay it out in "
        f"one of these ways:{LAYOUTS}"
    )


def _checked(
    splits: dict[str, list[Example]], folder: Path, inspected: dict[Path, Inspected], findings: Findings
) -> dict[str, list[Example]]:
    """The examples whose pictures are sound, upright, with boxes that lie inside them and have an area."""
    checked: dict[str, list[Example]] = {}
    turned, resized, flat, cut, empty = [], [], [], [], []
    boxes = 0
    for split, examples in splits.items():
        checked[split] = []
        for example in examples:
            assert isinstance(example.image, Path)
            found, name = inspected[example.image], inside(example.image, folder)
            if found.fault:
                continue
            boxes += len(example.boxes)
            turned += [name] if orientation.is_ambiguous(example, found) else []
            resized += [name] if orientation.is_of_another_size(example, found) else []
            fair, without_area, reaching = _fair(orientation.upright(example, found), found.size)
            flat += [name] * without_area
            cut += [name] * reaching
            empty += [name] if not len(fair.boxes) else []
            checked[split].append(fair)
    pictures = sum(map(len, checked.values()))
    happened = "are turned by EXIF, and no size tells whether boxes were drawn before: taken as drawn upright"
    findings.add("pictures", happened, turned, pictures)
    findings.add("pictures", "have another size than their annotation says", resized, pictures)
    findings.add("boxes", "left out: without area inside the picture", flat, boxes)
    findings.add("boxes", "cut at the edge of the picture", cut, boxes)
    findings.add("pictures", "have no box and are kept, as ones that show nothing", empty, pictures)
    return checked


def _fair(example: Example, size: tuple[int, int]) -> tuple[Example, int, int]:
    """`example` with its boxes cut to the picture of `size` (width, height), without those that have no
    area then; how many had none, and how many were cut.
    """
    limit = np.array([*size, *size], np.float32)
    boxes = np.clip(example.boxes, 0, limit).astype(np.float32)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    reaching = int((np.abs(boxes - example.boxes)[keep] > TOLERANCE).any(1).sum())
    segmentations = tuple(one for one, kept in zip(example.segmentations, keep, strict=False) if kept)
    kept_boxes = {"boxes": boxes[keep], "labels": example.labels[keep], "segmentations": segmentations}
    return replace(example, size=size, **kept_boxes), int((~keep).sum()), reaching


def inspected_pictures(files: Collection[Path], limits: Limits) -> dict[Path, Inspected]:
    """What is found in each picture; of more than MOST_INSPECTED in its header."""
    return inspect_all(files, limits, inspect_header if len(files) > MOST_INSPECTED else inspect_picture)


def without_damaged(
    given: Given, parts: Sequence[list[Example]], findings: Findings, limits: Limits
) -> list[list[Example]]:
    """(train, validation, test) without the damaged pictures of what is measured on, where only headers were
    read.
    """
    train, *held_out_parts = parts
    if len(given.inspected) <= MOST_INSPECTED:
        return [train, *held_out_parts]
    files = [Path(str(example.image)) for part in held_out_parts for example in part]
    inspected = inspect_all(files, limits, inspect_ends)
    report_faults(inspected, "pictures", given.folder, findings)
    kept = [[each for each in part if not inspected[Path(str(each.image))].fault] for part in held_out_parts]
    return [train, *kept]


def split(given: Given, seed: int) -> tuple[list[list[Example]], str]:
    """([train, validation, test], in words where they come from). The only second split that is given is the
    test; what is missing is taken from the training.
    """
    train, validation, test = (given.splits.get(name, []) for name in ("train", "validation", "test"))
    here = f"split here by file names and seed {seed}"
    if not train:
        whole = _shuffled(given, [example for part in given.splits.values() for example in part], seed)
        count = sum(map(len, whole))
        test, rest = take(whole, round(count * TEST))
        validation, train = take(_shuffled(given, rest, seed), round(count * VALIDATION))
        return [train, validation, test], f"{here}, {TEST:.0%} each"
    if not test:
        validation, test = [], validation
    if validation and test:
        return [train, validation, test], "as the folder has them"
    count, absent = (
        len(train),
        [name for name, part in (("validation", validation), ("test", test)) if not part],
    )
    if not validation:
        validation, train = take(_shuffled(given, train, seed), round(count * VALIDATION))
    if not test:
        test, train = take(_shuffled(given, train, seed), round(count * TEST))
    return [train, validation, test], f"{' and '.join(absent)} {here}, {TEST:.0%}"


def _shuffled(given: Given, examples: Sequence[Example], seed: int) -> list[list[Example]]:
    """Byte-equal copies together, in an order that depends on file names and `seed` alone, so that a picture
    more moves few others.
    """

    def order(example: Example) -> bytes:
        return hashlib.sha256(f"{seed} {Path(str(example.image)).name}".encode()).digest()

    def digest(example: Example) -> bytes:
        return given.inspected[Path(str(example.image))].digest

    return grouped(sorted(examples, key=order), digest)
