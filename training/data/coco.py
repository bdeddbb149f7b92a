"""COCO: one JSON file per split (Lin et al. 2014, cocodataset.org "Data format"). Gives what is written;
`object_folder` checks it.

Outlines are polygons or run lengths; `filled` paints them.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageDraw
from pydantic import AfterValidator, BaseModel, ValidationError

from handlers.inputs.masks import mask_of_run_lengths
from marina.core.errors import CallError
from training.data import Example
from training.data.picture_files import PictureFinder, is_leftover, split_of
from training.findings import Findings, inside

WANTED = (
    "it needs the lists images (id, file_name), annotations (image_id, category_id, bbox) and categories "
    "(id, name)"
)
MOST = 1e6  # pixels: no picture is so large
FINER = 5
OTHER_TASKS = ("captions", "person_keypoints", "image_info")  # COCO's other files, beside the instances
BACKGROUND = {"background", "_background_", "__background__"}


def _whole(value: Any) -> Any:
    """Some tools write numbers as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value


class _Picture(BaseModel):
    id: int | str
    file_name: str
    width: Any = None
    height: Any = None


class _Annotation(BaseModel):
    id: Any = None
    image_id: int | str
    category_id: Annotated[Any, AfterValidator(_whole)]
    bbox: Any
    segmentation: Any = None
    iscrowd: Any = 0


class _Category(BaseModel):
    id: int
    name: str
    supercategory: Any = None


class _Content(BaseModel):
    """What is needed of a COCO file; further keys are nobody's business here."""

    images: list[_Picture]
    annotations: list[_Annotation]
    categories: list[_Category]


def annotation_files(
    folder: Path, to_learn: bool = True, findings: Findings | None = None
) -> dict[str, Path]:
    """Split ("all" for none) -> JSON file, by the usual file names; empty where there are none, or none to
    learn from. Others go to the `findings`.
    """
    found: dict[str, Path] = {}
    others = []
    files = [
        *folder.glob("*.json"),
        *folder.glob("annotations/*.json"),
        *folder.glob("*/_annotations.coco.json"),
    ]
    files = [
        path
        for path in sorted(files, key=_likely_first)
        if not any(map(is_leftover, path.relative_to(folder).parts))
    ]
    files = [path for path in files if not path.stem.startswith(OTHER_TASKS)]
    for path in files:
        named = path.parent.name if path.stem == "_annotations.coco" else path.stem
        if found.setdefault(split_of(named) or "all", path) != path:
            others.append(path)
    if "train" in found and "all" in found:
        others.append(found.pop("all"))
    elif to_learn and "train" not in found:
        found = {"all": found["all"]} if "all" in found else {}
        others = [path for path in files if path not in found.values()]
    if findings and found:
        findings.add("JSON files", "are not read", (inside(path, folder) for path in others), len(files))
    return found


def is_likely(path: Path) -> bool:
    """Whether a JSON file is called as tools call annotations."""
    return any(word in path.stem.lower() for word in ("instances", "coco", "annotation"))


def _likely_first(path: Path) -> tuple[bool, Path]:
    return not is_likely(path), path


def read(
    folder: Path, files: dict[str, Path], findings: Findings
) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """(class names by order of category id, split -> examples). Crowds (`iscrowd`) are dropped.

    A background, or a supercategory of all others, that no annotation uses is no class. Raises CallError for
    a file that is no COCO JSON, and for splits whose categories contradict each other.
    """
    contents = {split: _content(path) for split, path in files.items()}
    names = _names(files, contents, findings)
    index = {identifier: k for k, identifier in enumerate(sorted(names))}
    examples = {}
    for split, content in contents.items():
        examples[split] = _examples(_Source(folder, files[split], split, content), index, findings)
    return tuple(names[identifier] for identifier in sorted(names)), examples


def _names(files: dict[str, Path], contents: dict[str, _Content], findings: Findings) -> dict[int, str]:
    """Category id -> name of each class."""
    names: dict[int, str] = {}
    parents: dict[int, Any] = {}
    for split, content in contents.items():
        for category in content.categories:
            if names.setdefault(category.id, category.name) != category.name:
                raise CallError(
                    f"{files[split]}: category {category.id} has two names, {names[category.id]!r} and "
                    f"{category.name!r}; give it one, the same in all splits"
                )
            parents[category.id] = category.supercategory
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise CallError(f"{next(iter(files.values()))}: two categories are called {twice[0]!r}; rename one")
    used = {str(row.category_id) for content in contents.values() for row in content.annotations}
    dropped = []
    for identifier, name in names.items():
        others = {parents[other] for other in names if other != identifier}
        if str(identifier) not in used and (name.lower() in BACKGROUND or others == {name}):
            dropped.append(identifier)
    said = [f"{identifier} {names[identifier]!r}" for identifier in dropped]
    findings.add("categories", "left out: no object is one, and the others are parts of it", said, len(names))
    return {identifier: name for identifier, name in names.items() if identifier not in dropped}


def filled(outline: Any, width: int, height: int) -> np.ndarray:
    """The pixels inside one object's outline, bool [height, width].

    `outline` is a list of polygons [x1, y1, x2, y2, …], all of which belong to it, or {"size": [height,
    width], "counts"} with run lengths as a list or as text. Raises ValueError for anything else, and for run
    lengths of another size.
    """
    if isinstance(outline, dict):
        return _mask(outline, width, height)
    inside = np.zeros((height, width), bool)
    for polygon in polygons(outline):
        _fill(inside, polygon)
    return inside


def outline_fault(outline: Any, width: int, height: int) -> str:
    """Why `filled` refuses an outline; empty where it doesn't."""
    try:
        if isinstance(outline, dict):
            _mask(outline, width, height)
        else:
            polygons(outline)
    except ValueError as error:
        return str(error)
    return ""


def _mask(outline: dict[str, Any], width: int, height: int) -> np.ndarray:
    if outline.get("size") != [height, width]:
        raise ValueError(f"run lengths for {outline.get('size')} in a picture of [{height}, {width}]")
    try:
        return mask_of_run_lengths(outline["counts"], height, width)
    except (TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError("no run lengths under counts") from error


def polygons(outline: Any) -> list[np.ndarray]:
    """Corners [N, 2] of each polygon of an outline. Raises ValueError for what is none."""
    if not isinstance(outline, list) or not outline:
        raise ValueError("no polygons and no run lengths")
    found = []
    for polygon in outline:
        try:
            corners = np.asarray(polygon, np.float64)
        except (TypeError, ValueError, OverflowError):
            corners = np.zeros(0)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
            raise ValueError("a polygon needs three corners or more, each an x and a y")
        found.append(corners.reshape(-1, 2))
    return found


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


def _content(path: Path) -> _Content:
    try:
        return _Content.model_validate(json.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CallError(f"{path} is no COCO JSON; {WANTED}; {place}: {first['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CallError(f"{path} is no JSON: {error}") from error


@dataclass(frozen=True)
class _Source:
    """One annotation file, of `split`."""

    folder: Path
    file: Path
    split: str
    content: _Content

    def places(self) -> list[Path]:
        """Where its pictures may lie: beside the JSON, in images/, or in a folder that is called like the
        split ("train", "train2017").
        """
        split = self.file.stem.removeprefix("instances_")
        images = self.folder / "images"
        return [images, images / split, self.folder / split, self.file.parent, self.folder]


def _examples(source: _Source, index: dict[int, int], findings: Findings) -> list[Example]:
    content, name = source.content, source.file.name
    rows: dict[str, list[_Annotation]] = {str(picture.id): [] for picture in content.images}
    lost, faulty = [], []
    for row in content.annotations:
        if str(row.image_id) not in rows:
            lost.append(f"annotation {row.id} of image {row.image_id}")
        elif not row.iscrowd and (_corners(row.bbox) is None or not _is_known(row, index)):
            faulty.append(f"annotation {row.id} of image {row.image_id}")
        else:
            rows[str(row.image_id)].append(row)
    total = len(content.annotations)
    findings.add(f"annotations of {name}", "left out: their image is not in the file", lost, total)
    findings.add(f"annotations of {name}", "left out: no box, or no known category", faulty, total)
    counts = Counter(str(picture.id) for picture in content.images)
    twice = [identifier for identifier, count in counts.items() if count > 1]
    findings.add(f"image ids of {name}", "are given twice: one picture is left out", twice, len(counts))
    finder = PictureFinder(source.folder, source.places())
    examples = []
    for picture in {str(picture.id): picture for picture in content.images}.values():
        path = finder.find(picture.file_name, None if source.split == "all" else source.split)
        missing = source.folder / "images" / picture.file_name
        examples.append(_example(path or missing, picture, rows[str(picture.id)], index))
    happened = f"found under another name than {name} gives"
    findings.add("pictures", happened, finder.elsewhere, len(examples))
    return examples


def _example(path: Path, picture: _Picture, rows: list[_Annotation], index: dict[int, int]) -> Example:
    objects = [row for row in rows if not row.iscrowd]
    outlines = []
    for row in rows:
        if row.segmentation:
            counted = _is_known(row, index) and not row.iscrowd
            outlines.append((index[row.category_id] if counted else -1, row.segmentation))
    sides = (picture.width, picture.height)
    return Example(
        path,
        boxes=np.array([_corners(row.bbox) for row in objects], np.float32).reshape(-1, 4),
        labels=np.array([index[row.category_id] for row in objects], np.int64),
        outlines=tuple(outlines),
        segmentations=tuple(row.segmentation or None for row in objects),
        stated_size=sides if all(type(side) is int and side > 0 for side in sides) else None,
    )


def _is_known(row: _Annotation, index: dict[int, int]) -> bool:
    return isinstance(row.category_id, int) and row.category_id in index


def _corners(box: Any) -> list[float] | None:
    """x1, y1, x2, y2 of a box x, y, width, height; None for what is none."""
    if not isinstance(box, list):
        return None
    try:
        left, top, width, height = map(float, box)
    except (TypeError, ValueError, OverflowError):
        return None
    corners = [left, top, left + width, top + height]
    return corners if np.abs(corners).max() < MOST else None  # NaN is not less either
