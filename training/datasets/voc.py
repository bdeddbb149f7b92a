"""Pascal VOC: one XML file per picture (Everingham et al. 2010). Gives what is written; `object_folder` checks it.

Objects marked "difficult" are objects like the others. Coordinates are taken as written, so that answers come in the same ones.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from training.datasets import Example

LOG = logging.getLogger("marina")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", ".")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SPLITS = {"train": ("train", "trainval"), "validation": ("val", "valid", "validation"), "test": ("test",)}
Objects = list[tuple[str, list[float]]]


def read(folder: Path) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """(class names in alphabetical order, split -> examples); the one split "all" where ImageSets/Main names none."""
    annotations = {path.stem: path for path in sorted((folder / "Annotations").glob("*.xml"))}
    pictures = _pictures(folder)
    parsed: dict[str, tuple[Path, Objects]] = {}
    for stem, path in annotations.items():
        found = _parse(path)
        if found is None:
            continue
        if stem not in pictures:
            LOG.warning("%s is left out: there is no picture %s.jpg for it", path, stem)
            continue
        parsed[stem] = (pictures[stem], found)
    classes = tuple(sorted({name for _, objects in parsed.values() for name, _ in objects}))
    return classes, {split: _examples(stems, parsed, classes) for split, stems in _split_names(folder, annotations).items()}


def _pictures(folder: Path) -> dict[str, Path]:
    """Stem -> picture, the first folder that has it."""
    found: dict[str, Path] = {}
    for name in IMAGE_FOLDERS:
        if (folder / name).is_dir():
            for path in sorted((folder / name).iterdir()):
                if path.suffix.lower() in SUFFIXES:
                    found.setdefault(path.stem, path)
    return found


def _split_names(folder: Path, annotations: Iterable[str]) -> dict[str, list[str]]:
    lists = folder / "ImageSets" / "Main"
    splits: dict[str, list[str]] = {}
    for split, names in SPLITS.items():
        path = next((lists / f"{name}.txt" for name in names if (lists / f"{name}.txt").is_file()), None)
        if path is not None:
            splits[split] = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return splits if "train" in splits else {"all": list(annotations)}


def _examples(stems: Iterable[str], parsed: dict[str, tuple[Path, Objects]], classes: tuple[str, ...]) -> list[Example]:
    examples = []
    for stem in stems:
        if stem not in parsed:
            LOG.warning("%s, named in ImageSets, is left out: it has no picture or no annotation that can be read", stem)
            continue
        picture, objects = parsed[stem]
        boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
        examples.append(Example(picture, boxes=boxes, labels=np.array([classes.index(name) for name, _ in objects], np.int64)))
    return examples


def _parse(path: Path) -> Objects | None:
    """(class name, box) of each object, or None with a warning for a file that can't be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("it declares a document type or entities, which are not read")
        root = ElementTree.fromstring(text)  # noqa: S314  entities are refused above
        return [_object(node) for node in root.iter("object")]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        LOG.warning("%s is left out: %s", path, error)
        return None


def _object(node: ElementTree.Element) -> tuple[str, list[float]]:
    name = (node.findtext("name") or "").strip()
    corners = [float(node.findtext(f"bndbox/{corner}") or "nan") for corner in ("xmin", "ymin", "xmax", "ymax")]
    if not name or not np.isfinite(corners).all():
        raise ValueError("an object has no name or no whole bndbox")
    return name, corners
