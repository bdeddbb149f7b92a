"""A folder of one's own with a folder per class: train, validation and test are found by looking, or split off."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from marina.errors import CallError
from training.datasets import Example, ImageData

from bundle_errors import Refusal
from bundle_images import open_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
VALIDATION_SHARE = TEST_SHARE = 0.15
LAYOUT = """a folder of {things} looks like one of these:

    FOLDER/                 FOLDER/
    ├── train/              ├── cat/
    │   ├── cat/{files}       │   └── {files}
    │   └── dog/{files}       └── dog/
    ├── val/  …                 └── {files}
    └── test/ …
    (val or test may be    (split here: 70 % to learn from,
    left out)               15 % to choose by, 15 % to test)"""

log = logging.getLogger("marina")

Pictures = dict[str, list[Path]]


@dataclass(frozen=True)
class Things:
    """What lies in the folders of the classes: `name` in the plural, `files` for the layout, how one class is listed, what is wrong
    with one of them (empty where nothing is), and what it becomes.
    """

    name: str
    files: str
    listed: Callable[[Path], list[Path]]
    fault: Callable[[Path], str]
    example: type[Example] = Example

    @property
    def layout(self) -> str:
        """How a folder of them looks."""
        return LAYOUT.format(things=self.name, files=self.files)


def load(folder: Path, seed: int, things: Things | None = None) -> ImageData:
    """Read FOLDER/{train,val,test}/CLASS/* or FOLDER/CLASS/*; jpg, jpeg, png, webp, bmp, gif, tif and tiff in any case.

    Without a test the given validation becomes the test; what is missing is split off class by class, decided by a hash of
    each file's name and `seed`. Damaged pictures, files that are no pictures and empty classes are left out with a warning.
    Raises CallError for a folder without pictures, with fewer than two classes, with a class that has too few pictures to be
    split, or with a class in the test that can't be learnt from train. `things` reads other things than pictures so.
    """
    things = things or PICTURES
    given = _given(folder, things)
    if not any(files for split in given.values() for files in split.values()):
        raise CallError(f"no {things.name} in {folder}; {things.layout}")
    given = _whole(given, things)
    if set(given) == {"all"}:
        rest, test = _parted(given["all"], TEST_SHARE, f"{seed} test", things)
        share = VALIDATION_SHARE / (1 - TEST_SHARE)
        train, validation = _parted(rest, share, f"{seed} validation", things)
    elif "train" not in given or len(given) == 1:
        raise CallError(f"{folder} needs train/ and beside it test/ or val/; {things.layout}")
    else:
        train, test = given["train"], given.get("test", given.get("validation", {}))
        if {"validation", "test"} <= set(given):
            validation = given["validation"]
        else:
            train, validation = _parted(train, VALIDATION_SHARE, f"{seed} validation", things)
    classes = sorted(name for name, files in train.items() if files)
    _check(folder, classes, validation, test, things)
    return ImageData(
        name=folder.name,
        classes=tuple(classes),
        train=_examples(train, classes, things),
        validation=_examples(validation, classes, things),
        test=_examples(test, classes, things),
        source=f"folder {folder.name}",
        licence="not stated",
    )


def held_out(folder: Path) -> ImageData:
    """The test of FOLDER/{train,val,test}/CLASS/* (or its validation), or all of FOLDER/CLASS/*, as `test`; nothing to learn from.

    Raises CallError for a folder without pictures.
    """
    given = _whole(_given(folder, PICTURES), PICTURES)
    test = next(given[split] for split in ("test", "validation", "all", "train") if split in given)
    classes = sorted({name for pictures in given.values() for name in pictures})
    examples = _examples(test, classes, PICTURES)
    if not examples:
        raise CallError(f"no pictures to measure with in {folder}; {PICTURES.layout}")
    return ImageData(folder.name, tuple(classes), [], [], examples, source=f"folder {folder.name}", licence="not stated")


def unlabelled(folder: Path) -> list[Example]:
    """All pictures below `folder` that can be opened, without a class. Raises CallError where there are none."""
    files = _whole({"all": {folder.name: _pictures(folder)}}, PICTURES)["all"].get(folder.name, [])
    if not files:
        raise CallError(f"no pictures in {folder}")
    return [Example(file) for file in files]


def _given(folder: Path, things: Things) -> dict[str, Pictures]:
    """Split -> class -> files, as they lie; the split is "all" where the folder holds the classes themselves."""
    inside = _folders(folder)
    splits = {SPLITS[path.name.lower()]: path for path in inside if path.name.lower() in SPLITS and _folders(path)}
    if "train" not in splits:
        splits = {"all": folder}
    elif others := [path.name for path in inside if path not in splits.values()]:
        log.warning("%s: beside train/ these folders are not read: %s", folder, ", ".join(others))
    given = {split: {path: things.listed(path) for path in _folders(place)} for split, place in splits.items()}
    for path in (path for listed in given.values() for path, files in listed.items() if not files):
        log.warning("%s is left out: a class without %s", path, things.name)
    return {split: {path.name: files for path, files in listed.items()} for split, listed in given.items()}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    """The pictures of one class, also in folders below; one warning for each sort of file that is none."""
    strangers: dict[str, list[Path]] = defaultdict(list)
    pictures = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix.lower() in SUFFIXES:
            pictures.append(path)
        else:
            strangers[path.suffix.lower()].append(path)
    for suffix, paths in strangers.items():
        log.warning("%s is left out: no picture (%d such file(s) %r in this class)", paths[0], len(paths), suffix or "without suffix")
    return pictures


def _whole(given: dict[str, Pictures], things: Things) -> dict[str, Pictures]:
    """Without the files that can't be opened; every file is decoded once for this, two at a time."""
    files = [file for split in given.values() for pictures in split.values() for file in pictures]
    with ThreadPoolExecutor(2) as pool:
        faults = track(pool.map(things.fault, files), "looking for damage", total=len(files), transient=True)
        damaged = {file: fault for file, fault in zip(files, faults, strict=True) if fault}
    for file, fault in damaged.items():
        log.warning("%s is left out: %s", file, fault)
    return {
        split: {name: kept for name, files in pictures.items() if (kept := [file for file in files if file not in damaged])}
        for split, pictures in given.items()
    }


def _fault(file: Path) -> str:
    try:
        open_image(file.read_bytes())
    except (Refusal, OSError) as error:
        return str(error)
    return ""


def _parted(pictures: Pictures, share: float, salt: str, things: Things) -> tuple[Pictures, Pictures]:
    """(the rest, `share` of each class but one of it at least), the same for the same names, whatever order they come in."""
    rest, part = {}, {}
    for name, files in pictures.items():
        if len(files) < 2:
            few = f"{len(files)} {things.name.removesuffix('s')}(s)"
            raise CallError(f"class {name!r} has {few} to be split; at least 5 are needed, some dozens make sense")
        drawn = sorted(files, key=lambda file: hashlib.sha256(f"{salt} {file.parent.name}/{file.name}".encode()).digest())
        count = max(1, round(share * len(files)))
        part[name], rest[name] = sorted(drawn[:count]), sorted(drawn[count:])
    return rest, part


def _check(folder: Path, classes: Sequence[str], validation: Pictures, test: Pictures, things: Things) -> None:
    if len(classes) < 2:
        raise CallError(f"{folder} has {len(classes)} class(es) with {things.name} to learn from, at least 2 are needed; {things.layout}")
    for split, pictures in (("validation", validation), ("test", test)):
        if unknown := sorted(set(pictures) - set(classes)):
            what = f"{split} has the class(es) {', '.join(unknown)} that train has no {things.name} of"
            raise CallError(f"{folder}: {what}; add some or take them out")
        if not any(pictures.values()):
            raise CallError(f"{folder}: {split} has no {things.name} that can be read; {things.layout}")
        if absent := sorted(set(classes) - set(pictures)):
            log.warning("%s: %s has no %s of %s, so nothing is measured for it", folder, split, things.name, ", ".join(absent))


def _examples(pictures: Pictures, classes: Sequence[str], things: Things) -> list[Example]:
    files: Iterable[tuple[str, Path]] = ((name, file) for name in classes for file in pictures.get(name, []))
    return [things.example(image=file, label=classes.index(name)) for name, file in files]


PICTURES = Things("pictures", "*.jpg", _pictures, _fault)
