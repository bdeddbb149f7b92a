"""Which layout a folder has, and which one is nearest where it has none that a recipe can learn from."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from marina.core.errors import CallError
from training.data import image_folder, label_table, shards
from training.data.labeled_files import PICTURES, Listing, Things
from training.data.picture_files import SPLITS, files_below, folders
from training.findings import Findings

MOST_SEEN = 5_000  # files that are counted
CLASSES, BOXES, OUTLINES = "classes", "boxes", "outlines"
RECIPES = {CLASSES: "classifier", BOXES: "detector", OUTLINES: "segmenter"}


class Marks(NamedTuple):
    """Patterns of what only folders of this layout have, and of what others have too; what it is for."""

    own: tuple[str, ...]
    shared: tuple[str, ...]
    tasks: tuple[str, ...]


MARKS = {
    "a folder per class": Marks(("train/*/*.*",), ("*/*.jpg", "*/*.png"), (CLASSES,)),
    "a table of files and classes": Marks(("*.csv", "*.tsv", "*.parquet", "labels.json"), (), (CLASSES,)),
    "WebDataset shards": Marks(("*.tar", "*/*.tar", "*.tar.gz"), (), (CLASSES,)),
    "Pascal VOC": Marks(("Annotations/*.xml",), ("JPEGImages",), (BOXES,)),
    "COCO": Marks(
        ("*instances*.json", "annotations/*.json", "*/_annotations.coco.json"), ("images",), (BOXES, OUTLINES)
    ),
    "YOLO": Marks(("labels/**/*.txt", "*/labels/*.txt", "data.yaml"), ("images",), (BOXES, OUTLINES)),
    "class masks": Marks(("masks", "*/masks", "SegmentationClass", "gtFine"), ("images",), (OUTLINES,)),
}


def is_listing(path: Path) -> bool:
    """Whether a file is a table of files and classes, or a shard."""
    suffixes = (*label_table.SUFFIXES, ".json", ".tar", *shards.COMPRESSED)
    return path.is_file() and path.name.lower().endswith(suffixes)


def class_listing(place: Path, findings: Findings, things: Things = PICTURES) -> Listing:
    """The files with a class each of a folder per class, a table, or WebDataset shards.

    A folder of classes is read as such though it holds tables too, unless one is called labels. Raises
    CallError, with what was seen and the nearest layout, for what is none of these.
    """
    if place.is_file():
        if place.suffix.lower() in (*label_table.SUFFIXES, ".json"):
            return label_table.listing_of(place, findings, things)
        return shards.listing_of(place, findings, things)
    tables = label_table.tables_in(place)
    has_classes = len(_class_folders(place, things)) > 1
    if tables and (not has_classes or any(path.stem.lower() == "labels" for path in tables)):
        return label_table.listing_of(place, findings, things)
    if has_classes and not (place / "Annotations").is_dir():
        names = (f"{place.name}/{path.name}" for path in tables)
        findings.add("tables", "are not read, beside the folders of classes", names, len(tables))
    elif shards.shards_in(place):
        return shards.listing_of(place, findings, things)
    elif _is_other(place):
        raise CallError(f"{place} has no folder per class and no table: {seen(place, CLASSES)}")
    return image_folder.listing_of(place, findings, things)


def seen(folder: Path, wanted: str) -> str:
    """What a folder holds, in words, and which layout is nearest."""
    counts = Counter(path.suffix.lower() or "no suffix" for path in islice(files_below(folder), MOST_SEEN))
    more = " and more" if sum(counts.values()) == MOST_SEEN else ""
    files = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(4)) or "no file"
    names = [f"{path.name}/" for path in folders(folder)]
    shown = f" in {', '.join(names[:6])}{' …' if len(names) > 6 else ''}" if names else ""
    other = nearest(folder, wanted)
    return f"it holds {files}{more}{shown}" + (f"; {other}" if other else "")


def nearest(folder: Path, wanted: str) -> str:
    """The layout that `folder` has most marks of, what of it is missing, and which recipe learns from it;
    empty where it has none. `wanted` is what is to be learned: classes, boxes or outlines.
    """
    scores = {}
    for name, marks in MARKS.items():
        own, shared = (sum(_has(folder, pattern) for pattern in part) for part in marks[:2])
        if own or (shared and wanted in marks.tasks):
            scores[name] = (bool(own), wanted in marks.tasks, own + shared)
    if not scores:
        return ""
    name = max(scores, key=lambda each: scores[each])
    marks = MARKS[name]
    if wanted not in marks.tasks:
        recipes = " or ".join(RECIPES[task] for task in marks.tasks)
        return f"nearest is {name}, which the recipe {recipes} learns from"
    missing = " or ".join(pattern for pattern in marks.own if not _has(folder, pattern))
    return f"nearest is {name}" + (f", of which there is no {missing}" if not scores[name][0] else "")


def _has(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _class_folders(folder: Path, things: Things) -> set[str]:
    """The names of folders that could be classes: with such things in them, and not called like a split."""
    inner = folders(folder)
    of_splits = [path for path in inner if path.name.lower() in SPLITS and folders(path)]
    candidates = [path for place in of_splits for path in folders(place)] if of_splits else inner
    return {path.name for path in candidates if path.name.lower() not in SPLITS and _has_some(path, things)}


def _has_some(folder: Path, things: Things) -> bool:
    """Whether there is one, in it or in the folders below."""
    files = islice(files_below(folder), MOST_SEEN)
    return any(path.suffix.lower() in things.suffixes for path in files)


def _is_other(folder: Path) -> bool:
    """Whether it has marks of layouts of boxes or outlines alone."""
    found = [marks.tasks for marks in MARKS.values() if any(_has(folder, pattern) for pattern in marks.own)]
    return bool(found) and not any(CLASSES in tasks for tasks in found)
