"""Pascal VOC: one XML file per picture (Everingham et al. 2010). Gives what is written; `object_folder`
checks it.

Objects marked "difficult" are objects like the others. Coordinates are taken as written, so that answers come
in the same ones.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from training.data import Example
from training.data.class_order import class_order
from training.data.picture_files import SUFFIXES, PictureFinder, entries, is_leftover
from training.findings import Findings, inside

IMAGE_FOLDERS = ("JPEGImages", "images", "Images", ".")
LISTS = {"train": ("train", "trainval"), "validation": ("val", "valid", "validation"), "test": ("test",)}
MOST_BYTES = 10_000_000  # of one XML file


@dataclass(frozen=True)
class Annotation:
    """What one XML file says: its objects (class name, box), and the picture's name and size if given."""

    objects: list[tuple[str, list[float]]]
    picture: str
    size: tuple[int, int] | None


def read(folder: Path, findings: Findings) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """(class names, those that are all numbers by value, else in alphabetical order; split -> examples); the
    one split "all" where ImageSets/Main names none.

    Raises CallError for a split's list that is no text.
    """
    files = [path for path in sorted((folder / "Annotations").glob("*.xml")) if not is_leftover(path.name)]
    pictures = _pictures(folder)
    finder = PictureFinder(folder, ())
    parsed: dict[str, tuple[Path, Annotation]] = {}
    unread: dict[str, list[str]] = {}
    for path in files:
        try:
            annotation = _parse(path)
            found = pictures.get(path.stem) or finder.find(annotation.picture) or _by_stem(finder, path.stem)
            if found is None:
                raise ValueError("there is no picture for them")
            parsed[path.stem] = found, annotation
        except (OSError, ValueError, ElementTree.ParseError) as error:
            reason = str(error) if type(error) is ValueError else "no XML that can be read"
            unread.setdefault(reason, []).append(inside(path, folder))
    for reason, paths in unread.items():
        findings.add("annotations", f"left out: {reason}", paths, len(files))
    findings.add("pictures", "found under another name than their annotation", finder.elsewhere, len(files))
    stems = {path.stem for path in files}
    used = {path for path, _ in parsed.values()}
    without = [path for stem, path in pictures.items() if stem not in stems and path not in used]
    happened = "left out: they have no annotation"
    findings.add("pictures", happened, (inside(path, folder) for path in without), len(pictures))
    classes = class_order(name for _, annotation in parsed.values() for name, _ in annotation.objects)
    splits = _split_names(folder, [path.stem for path in files], findings)
    return classes, {split: _examples(names, parsed, classes, findings) for split, names in splits.items()}


def _pictures(folder: Path) -> dict[str, Path]:
    """Stem -> picture, the first folder that has it."""
    found: dict[str, Path] = {}
    for name in IMAGE_FOLDERS:
        if (folder / name).is_dir():
            for path in entries(folder / name):
                if path.suffix.lower() in SUFFIXES:
                    found.setdefault(path.stem, path)
    return found


def _by_stem(finder: PictureFinder, stem: str) -> Path | None:
    return next((path for suffix in sorted(SUFFIXES) if (path := finder.find(stem + suffix))), None)


def _split_names(folder: Path, annotations: list[str], findings: Findings) -> dict[str, list[str]]:
    """Split -> stems. What `trainval` holds of the other lists is not learned from."""
    lists = folder / "ImageSets" / "Main"
    splits: dict[str, list[str]] = {}
    for split, names in LISTS.items():
        path = next((lists / f"{name}.txt" for name in names if (lists / f"{name}.txt").is_file()), None)
        if path is not None:
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            known = set(annotations)
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            splits[path.stem if path.stem == "trainval" else split] = [
                line if line in known else _stem(line) for line in lines
            ]
    if "trainval" in splits:
        others = {stem for split in ("validation", "test") for stem in splits.get(split, [])}
        splits["train"] = [stem for stem in splits.pop("trainval") if stem not in others]
    if "train" in splits:
        return splits
    ignored = sorted(splits)
    findings.add("lists in ImageSets/Main", "are not read: there is no train.txt", ignored, len(splits))
    return {"all": annotations}


def _stem(line: str) -> str:
    """The picture that a line names: a in "a 1" (with a class's mark) and in "JPEGImages/a.jpg"."""
    name = re.split(r"[\\/]", line.split(maxsplit=1)[0])[-1]
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def _examples(
    stems: Iterable[str],
    parsed: dict[str, tuple[Path, Annotation]],
    classes: tuple[str, ...],
    findings: Findings,
) -> list[Example]:
    examples, unknown, unique = [], [], dict.fromkeys(stems)
    for stem in unique:
        if stem not in parsed:
            unknown.append(stem)
            continue
        picture, annotation = parsed[stem]
        boxes = np.array([box for _, box in annotation.objects], np.float32).reshape(-1, 4)
        labels = np.array([classes.index(name) for name, _ in annotation.objects], np.int64)
        examples.append(Example(picture, boxes=boxes, labels=labels, stated_size=annotation.size))
    happened = "left out: no picture, or no annotation that can be read"
    findings.add("names in ImageSets", happened, unknown, len(unique))
    return examples


def _parse(path: Path) -> Annotation:
    """Raises ValueError with the reason, ParseError and OSError for a file that can't be read."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"they have more than {MOST_BYTES:,} bytes")
    content = path.read_bytes()
    declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)["']""", content)
    try:
        text = content.decode(declared[1].decode() if declared else "utf-8-sig")
    except (UnicodeError, LookupError):
        raise ValueError("their text is in another encoding than they say") from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("they declare a document type or entities, which are not read")
    root = ElementTree.fromstring(text)  # noqa: S314  entities are refused above
    sides = [_number(root, f"size/{side}") for side in ("width", "height")]
    size = (int(sides[0]), int(sides[1])) if all(0 < side < MOST_BYTES for side in sides) else None
    picture = (root.findtext("filename") or "").strip()
    return Annotation([_object(node) for node in root.iter("object")], picture, size)


def _object(node: ElementTree.Element) -> tuple[str, list[float]]:
    name = (node.findtext("name") or "").strip()
    corners = [_number(node, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
    if not name or not np.isfinite(corners).all():
        raise ValueError("an object has no name or no whole bndbox")
    return name, corners


def _number(node: ElementTree.Element, path: str) -> float:
    try:
        return float(node.findtext(path) or "nan")
    except ValueError:
        return float("nan")
