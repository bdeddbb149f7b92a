"""COCO: one JSON file per split (Lin et al. 2014, cocodataset.org "Data format"). Gives what is written; `object_folder` checks it.

Outlines are polygons or run lengths; `filled` paints them.
"""

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from marina.errors import CallError
from training.datasets import Example

from bundle_masks import mask_of_run_lengths

LOG = logging.getLogger("marina")
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
FINER = 5
FIELDS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id", "bbox"), "categories": ("id", "name")}


def annotation_files(folder: Path, to_learn: bool = True) -> dict[str, Path]:
    """Split ("all" for none) -> JSON file, by the usual file names; empty where there are none, or none to learn from."""
    found: dict[str, Path] = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json"), *folder.glob("*/_annotations.coco.json")]):
        if path.stem.startswith(("captions", "person_keypoints", "image_info")):
            continue  # COCO's other tasks, beside the instances
        named = path.parent.name if path.stem == "_annotations.coco" else path.stem
        split = next((split for name, split in SPLITS.items() if name in named.lower().replace("-", "_").split("_")), None)
        split = split or next((split for name, split in SPLITS.items() if named.lower().startswith((name, f"instances_{name}"))), "all")
        found.setdefault(split, path)
    return found if "train" in found or not to_learn else {"all": found["all"]} if "all" in found else {}


def read(folder: Path, files: dict[str, Path]) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """(class names by order of category id, split -> examples). Crowds (`iscrowd`) are dropped.

    Raises CallError for a file that is no COCO JSON, and for splits whose categories contradict each other.
    """
    contents = {split: _content(path) for split, path in files.items()}
    names: dict[int, str] = {}
    for split, content in contents.items():
        for category in content["categories"]:
            if names.setdefault(category["id"], str(category["name"])) != str(category["name"]):
                raise CallError(f"{files[split]}: category {category['id']} has another name than in the other splits; give all the same")
    index = {identifier: k for k, identifier in enumerate(sorted(names))}
    examples = {split: _examples(folder, files[split], content, index) for split, content in contents.items()}
    return tuple(names[identifier] for identifier in sorted(names)), examples


def filled(outline: Any, width: int, height: int) -> np.ndarray:
    """The pixels inside one object's outline, bool [height, width].

    `outline` is a list of polygons [x1, y1, x2, y2, …], all of which belong to it, or {"size": [height, width], "counts"} with run
    lengths as a list or as text. Raises ValueError for anything else, and for run lengths of another size.
    """
    if isinstance(outline, dict):
        if list(outline.get("size", ())) != [height, width]:
            raise ValueError(f"run lengths for {outline.get('size')} in a picture of [{height}, {width}]")
        return mask_of_run_lengths(outline["counts"], height, width)
    if not isinstance(outline, list) or not outline:
        raise ValueError("no polygons and no run lengths")
    inside = np.zeros((height, width), bool)
    for polygon in outline:
        corners = np.asarray(polygon, np.float64)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
            raise ValueError("a polygon needs three corners or more, each an x and a y")
        _fill(inside, corners.reshape(-1, 2))
    return inside


def _fill(inside: np.ndarray, corners: np.ndarray) -> None:
    """Set what lies in the polygon of `corners` [N, 2]: the pixels whose centres do.

    Pillow fills all that an edge touches, so it fills FINER cells a pixel, of which the middle one decides.
    """
    limit = np.array(inside.shape[::-1])
    left, top = np.clip(np.floor(corners.min(0)), 0, limit).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, limit).astype(int).tolist()
    if right <= left or bottom <= top:
        return
    fine = Image.new("1", ((right - left) * FINER, (bottom - top) * FINER))
    ImageDraw.Draw(fine).polygon(((corners - [left, top]) * FINER - 0.5).ravel().tolist(), fill=1)
    inside[top:bottom, left:right] |= np.array(fine)[FINER // 2 :: FINER, FINER // 2 :: FINER]


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        absent = {f"{key}.{field}" for key, fields in FIELDS.items() for row in content[key] for field in fields if field not in row}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CallError(f"{path} is no COCO JSON; it needs the lists {', '.join(FIELDS)}: {error!r}") from error
    if absent:
        raise CallError(f"{path} is no COCO JSON with boxes; it lacks {', '.join(sorted(absent))}")
    return content  # type: ignore[no-any-return]


def _examples(folder: Path, file: Path, content: dict[str, Any], index: dict[int, int]) -> list[Example]:
    boxes: dict[int, list[list[float]]] = defaultdict(list)
    outlines: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    labels: dict[int, list[int]] = defaultdict(list)
    segmentations: dict[int, list[Any]] = defaultdict(list)
    for row in content["annotations"]:
        if row.get("segmentation"):
            counted = row["category_id"] in index and not row.get("iscrowd")
            outlines[row["image_id"]].append((index[row["category_id"]] if counted else -1, row["segmentation"]))
        if row.get("iscrowd"):
            continue
        box = np.asarray(row["bbox"], np.float64)
        if box.shape != (4,) or not np.isfinite(box).all() or row["category_id"] not in index:
            LOG.warning("%s: annotation %s of image %s is left out: no box, or no known category", file, row.get("id"), row["image_id"])
            continue
        left, top, width, height = box.tolist()
        boxes[row["image_id"]].append([left, top, left + width, top + height])
        labels[row["image_id"]].append(index[row["category_id"]])
        segmentations[row["image_id"]].append(row.get("segmentation") or None)
    return [
        Example(
            _picture(folder, file, row["file_name"]),
            boxes=np.array(boxes[row["id"]], np.float32).reshape(-1, 4),
            labels=np.array(labels[row["id"]], np.int64),
            outlines=tuple(outlines[row["id"]]),
            segmentations=tuple(segmentations[row["id"]]),
        )
        for row in content["images"]
    ]


def _picture(folder: Path, file: Path, name: str) -> Path:
    """Where the picture lies: beside the JSON, in images/, or in a folder that is called like the split ("train", "train2017")."""
    split = file.stem.removeprefix("instances_")
    places = [folder / "images", folder / "images" / split, folder / split, file.parent, folder]
    return next((place / name for place in places if (place / name).is_file()), folder / "images" / name)
