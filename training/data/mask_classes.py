"""What the values or colors of class masks mean."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handlers.inputs.masks import MAX_CLASSES
from marina.core.errors import CallError
from training.data.class_order import class_order
from training.findings import Findings, inside

IGNORED = MAX_CLASSES
BACKGROUND = "background"
LISTS = ("classes.txt", "class_names.txt", "labels.txt")
COLOR_LISTS = ("class_dict.csv", "labelmap.txt")
VOC = (
    *(BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
# Cityscapes' labelIds -> the 19 classes that count (github.com/mcordts/cityscapesScripts, labels.py)
CITYSCAPES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
Color = tuple[int, int, int]


@dataclass(frozen=True)
class MaskClasses:
    """Class names, and the class of each value or color of a mask; other values are ignored."""

    names: tuple[str, ...]
    values: Mapping[int, int]
    colors: Mapping[Color, int]

    def labels(self, content: np.ndarray) -> np.ndarray:
        """The class of every pixel, uint8 [H, W], of values [H, W] or colors [H, W, 3]; IGNORED for none."""
        if content.ndim == 2:
            table = np.full(256, IGNORED, np.uint8)
            table[list(self.values)] = list(self.values.values())
            inside_table = (content >= 0) & (content < 256)
            return np.where(inside_table, table[np.clip(content, 0, 255)], np.uint8(IGNORED))
        labels = np.full(content.shape[:2], IGNORED, np.uint8)
        for color, label in self.colors.items():
            labels[(content == color).all(-1)] = label
        return labels


def classes_of(
    folder: Path, found: Mapping[Path, Iterable[Any]], ignore_index: int | None, findings: Findings
) -> MaskClasses:
    """The classes of masks with these values, or colors, by the lists in `folder`, else by what is
    known of the layout, else by number. Values without a class go to the `findings`.

    Raises CallError for colors without a list, for too many classes and for fewer than two.
    """
    colors = _color_list(folder)
    if any(isinstance(value, tuple) for values in found.values() for value in values):
        if not colors:
            raise CallError(
                f"{folder}: masks are in colors; write a class_dict.csv with the lines name,r,g,b, or make "
                "masks whose values are the classes' numbers"
            )
        classes = MaskClasses(tuple(colors), {}, {color: k for k, color in enumerate(colors.values())})
    else:
        values = {int(value) for values in found.values() for value in values}
        names = _names(folder) or list(colors)
        classes = _by_value(folder, names, values, ignore_index, findings)
    if not 2 <= len(classes.names) <= MAX_CLASSES:
        raise CallError(f"{folder}: masks of {len(classes.names)} classes; 2 to {MAX_CLASSES} can be learned")
    if not any("_gtFine_" in path.name for path in found):  # Cityscapes' other values are meant not to count
        known = {*classes.values, *classes.colors, ignore_index}
        odd = {path: sorted(set(values) - known) for path, values in found.items()}
        named = [f"{inside(path, folder)}: {rest[0]}" for path, rest in odd.items() if rest]
        happened = "have values that are no class; those pixels don't count"
        findings.add("masks", happened, named, len(found))
    return classes


def _by_value(
    folder: Path, names: list[str], values: set[int], ignore_index: int | None, findings: Findings
) -> MaskClasses:
    """The classes of masks with these `values`."""
    seen = values - {ignore_index}
    if not names and values == {0, 255}:
        findings.add("masks of 0 and 255", "are read as background and foreground", [folder.name])
        return MaskClasses((BACKGROUND, "foreground"), {0: 0, 255: 1}, {})
    if not names and (folder / "gtFine").is_dir():
        order = list(CITYSCAPES.values())
        if max(seen, default=0) >= len(order):
            return MaskClasses(tuple(order), {id_: order.index(name) for id_, name in CITYSCAPES.items()}, {})
        names = order
    if not names and (folder / "SegmentationClass").is_dir() and seen <= set(range(len(VOC))):
        names = list(VOC)
    if names:
        counted = set(range(min(len(names), 256))) - {ignore_index}
        return MaskClasses(tuple(names), {value: value for value in counted}, {})
    numbers = class_order(map(str, seen))
    findings.add("classes", "called by their values: no classes.txt names them", numbers, len(numbers))
    return MaskClasses(numbers, {int(name): k for k, name in enumerate(numbers)}, {})


def _names(folder: Path) -> list[str]:
    """The names of the values 0, 1, … as a list in `folder` says; empty without one."""
    mapping = folder / "id2label.json"
    if mapping.is_file():
        try:
            content = json.loads(mapping.read_text(encoding="utf-8-sig"))
            return [str(content.get(str(k), k)) for k in range(max(map(int, content)) + 1)]
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise CallError(f'{mapping} must say {{"0": "background", "1": "cat", …}}: {error}') from error
    for name in LISTS:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8-sig", errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip()]
    return []


def _color_list(folder: Path) -> dict[str, Color]:
    """Name -> color, of class_dict.csv (name,r,g,b) or CVAT's labelmap.txt (name:r,g,b::); empty without."""
    path = next((folder / name for name in COLOR_LISTS if (folder / name).is_file()), None)
    if path is None:
        return {}
    found: dict[str, Color] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        for cells in csv.reader(line for line in lines if line.strip() and not line.startswith("#")):
            row = ":".join(cells).split(":")[:4]
            if len(row) < 4 or not row[1].strip().isdecimal():
                continue  # the head
            red, green, blue = (int(cell) for cell in row[1:])
            found[row[0].strip()] = (red, green, blue)
    except (OSError, ValueError, csv.Error) as error:
        raise CallError(f"{path} must have the lines name,r,g,b: {error}") from error
    return found
