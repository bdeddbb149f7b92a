"""YOLO: one text file per picture, with a line per object: class, then center, width and height of its box
as shares of the picture's width and height, or the corners of its outline. Gives what is written;
`object_folder` checks it.

A picture without a text file shows nothing, as Ultralytics' tools have it (docs.ultralytics.com/datasets). Of
lines with keypoints the box alone is read.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from marina.core.errors import CallError
from marina.core.yaml_files import parse_yaml
from training.data import Example
from training.data.inspection import shown_size
from training.data.picture_files import SPLITS, SUFFIXES, entries, files_below, folders
from training.findings import Findings, inside

KEYS = {"train": "train", "val": "validation", "valid": "validation", "test": "test"}
NAMES = ("classes.txt", "obj.names", "labels.txt")
MOST_BYTES = 10_000_000  # of one text file
LAYOUT = """
  YOLO
    data.yaml   (train: images/train, val: images/val, names: [cat, dog]; or classes.txt, a name per line)
    images/train/a.jpg, labels/train/a.txt   (or train/images/a.jpg, train/labels/a.txt; or without splits)"""


@dataclass(frozen=True)
class Source:
    """What a folder says: class names, empty where it says none; split -> pictures; whether lines end in
    keypoints.
    """

    names: tuple[str, ...]
    splits: dict[str, list[Path]]
    keypoints: bool = False


def is_one(folder: Path) -> bool:
    """Whether `folder` has this layout: pictures with text files where the layout has them."""
    listed = _splits(folder, _yaml(folder))
    pictures = (path for files in listed.values() for path in files)
    return any(_label_file(path).is_file() for path in pictures)


def read(folder: Path, findings: Findings) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """(class names in the order of their numbers, split -> examples); the split "all" where none is named.

    Lines that can't be read go to the `findings`. Raises CallError for a data.yaml that can't be read.
    """
    content = _yaml(folder)
    splits = _splits(folder, content)
    source = Source(_names(folder, content), splits, "kpt_shape" in content)
    faulty: dict[str, list[str]] = defaultdict(list)
    rows: dict[Path, list[tuple[int, np.ndarray]]] = {}
    count = 0
    for path in dict.fromkeys(path for files in splits.values() for path in files):
        rows[path] = []
        for number, line in enumerate(_lines(_label_file(path), faulty, folder), 1):
            count += 1
            row, fault = _parsed(line, source)
            if row is None:
                faulty[fault].append(f"{inside(_label_file(path), folder)}, line {number}")
            else:
                rows[path].append(row)
    for fault, places in faulty.items():
        findings.add("lines", f"left out: {fault}", places, count)
    last = max((label for objects in rows.values() for label, _ in objects), default=-1)
    classes = source.names or tuple(str(label) for label in range(last + 1))
    if not source.names:
        happened = "called by their numbers: no data.yaml and no classes.txt names them"
        findings.add("classes", happened, classes, len(classes))
    return classes, {split: [_example(path, rows[path]) for path in files] for split, files in splits.items()}


def _yaml(folder: Path) -> dict[str, Any]:
    """What data.yaml says, or another YAML with class names; empty where there is none."""
    files = [path for path in entries(folder) if path.suffix.lower() in (".yaml", ".yml")]
    for path in sorted(files, key=lambda path: path.stem.lower() not in ("data", "dataset")):
        try:
            content = parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
        except (OSError, UnicodeError) as error:
            raise CallError(f"{path} can't be read: {error}") from error
        if isinstance(content, dict) and "names" in content:
            return content
    return {}


def _names(folder: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict) and names and all(isinstance(key, int) and key >= 0 for key in names):
        return tuple(str(names.get(k, k)) for k in range(min(max(names) + 1, 100_000)))
    if isinstance(names, list):
        return tuple(map(str, names))
    for name in NAMES:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8-sig", errors="replace")
            return tuple(line.strip() for line in text.splitlines() if line.strip())
    return ()


def _splits(folder: Path, content: dict[str, Any]) -> dict[str, list[Path]]:
    """Split -> pictures, as data.yaml says, else by the usual folders."""
    splits: dict[str, list[Path]] = defaultdict(list)
    for key, split in KEYS.items():
        said = content.get(key)
        for place in said if isinstance(said, list) else [said]:
            if isinstance(place, str) and place:
                splits[split] += _pictures(folder, place, content.get("path"))
    if splits.get("train"):
        return dict(splits)
    images = folder / "images"
    by_folder: dict[str, list[Path]] = {}
    for path in [*(folders(images) if images.is_dir() else []), *folders(folder)]:
        named = SPLITS.get(path.name.lower().rstrip("0123456789"))
        found = _below(path / "images" if (path / "images").is_dir() else path)
        if named and found:
            by_folder.setdefault(named, found)
    if "train" in by_folder:
        return by_folder
    return {"all": _below(images if images.is_dir() else folder)}


def _pictures(folder: Path, place: str, root: Any) -> list[Path]:
    """The pictures of a folder, or of a text file that lists them, that lies in `folder` as data.yaml says,
    or under the end of its path.
    """
    parts = [part for part in Path(place).parts if part not in ("..", ".", "/")]
    tried = [folder / str(root), folder] if isinstance(root, str) else [folder]
    candidates = [base / place for base in tried]
    candidates += [folder.joinpath(*parts[k:]) for k in range(len(parts))]
    for candidate in candidates:
        resolved = candidate.resolve()
        if not resolved.is_relative_to(folder.resolve()):
            continue
        if resolved.is_dir():
            return _below(folder / resolved.relative_to(folder.resolve()))
        if resolved.is_file() and resolved.suffix == ".txt":
            return _listed(folder, resolved)
    return []


def _listed(folder: Path, file: Path) -> list[Path]:
    found = []
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        parts = [part for part in Path(line.strip()).parts if part not in ("..", ".", "/")]
        tried = (folder.joinpath(*parts[k:]) for k in range(len(parts)))
        if path := next((path for path in tried if path.is_file()), None):
            found.append(path)
    return found


def _below(folder: Path) -> list[Path]:
    files = files_below(folder) if folder.is_dir() else ()
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def _label_file(picture: Path) -> Path:
    """Its text file: in labels/ instead of the last images/, or beside it."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _lines(file: Path, faulty: dict[str, list[str]], folder: Path) -> Iterator[str]:
    if not file.is_file():
        return
    try:
        if file.stat().st_size > MOST_BYTES:
            faulty[f"their file has more than {MOST_BYTES:,} bytes"].append(inside(file, folder))
            return
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError):
        faulty["their file is no text that can be read"].append(inside(file, folder))
        return
    yield from (line for line in text.splitlines() if line.strip())


def _parsed(line: str, source: Source) -> tuple[tuple[int, np.ndarray] | None, str]:
    """(class, corners [2 or more, 2] as shares of the picture), or None and why."""
    try:
        label, *numbers = (float(word) for word in line.split())
        values = np.array(numbers)
    except (ValueError, OverflowError):
        return None, "no numbers"
    values = values[:4] if source.keypoints else values
    if len(values) < 4 or len(values) % 2 or not np.isfinite([label, *values]).all():
        return None, "not a class and four numbers, or a class and the corners of an outline"
    if not label.is_integer() or label < 0 or (source.names and label >= len(source.names)):
        return None, f"no class has their number; there are {len(source.names)}, from 0 on"
    if np.abs(values).max() > 2:
        return None, "their numbers are no shares of the picture's width and height, from 0 to 1"
    if len(values) == 4:
        center, half = values[:2], values[2:] / 2
        return (int(label), np.stack([center - half, center + half])), ""
    return (int(label), values.reshape(-1, 2)), ""


def _example(path: Path, objects: Sequence[tuple[int, np.ndarray]]) -> Example:
    size = np.array(shown_size(path) if objects else (1, 1))
    corners = [points * size for _, points in objects]
    boxes = np.array([[*points.min(0), *points.max(0)] for points in corners], np.float32)
    shapes = [None if len(points) == 2 else [points.ravel().tolist()] for points in corners]
    return Example(
        path,
        boxes=boxes.reshape(-1, 4),
        labels=np.array([label for label, _ in objects], np.int64),
        outlines=tuple((label, shape) for (label, _), shape in zip(objects, shapes, strict=True) if shape),
        segmentations=tuple(shapes),
    )
