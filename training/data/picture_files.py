"""Which files below a folder are data, and where a picture lies that an annotation names."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
# what file managers, network drives and archives leave behind, in lower case; hidden files are too
LEFTOVERS = {
    *("@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "__pycache__", "lost+found"),
    *("$recycle.bin", "#recycle", "@recycle", "system volume information"),
}


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or a system's own: never data."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def entries(folder: Path) -> list[Path]:
    """The files and folders in `folder`, sorted, without leftovers."""
    return sorted(path for path in folder.iterdir() if not is_leftover(path.name))


def folders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted, without leftovers."""
    return [path for path in entries(folder) if path.is_dir()]


def files_below(folder: Path) -> Iterator[Path]:
    """All files below `folder`, sorted, without leftovers and what lies in them."""
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_leftover(name))
        yield from (Path(place, name) for name in sorted(files) if not is_leftover(name))


def split_of(name: str) -> str | None:
    """The split that a whole word of `name` says: "instances_val2017" is of validation, "valves" of none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


class PictureFinder:
    """Finds the pictures that an annotation file names, in its folder and never outside it.

    A name counts as it is written, in each of `places`. Otherwise by its parts: with either slash, without a
    drive, `..` and %20, in any case, whatever the folders above the file are called, as long as one file
    alone fits and lies in no folder of another split. `elsewhere` collects the names that were found so.
    `suffixes` are those of the files that are looked for by their parts.
    """

    def __init__(self, folder: Path, places: Sequence[Path], suffixes: Collection[str] = SUFFIXES) -> None:
        self.folder, self.places, self.suffixes = folder, places, suffixes
        self.elsewhere: list[str] = []

    def find(self, name: str, split: str | None = None) -> Path | None:
        """The file that `name` means in an annotation of `split`, or None."""
        for place in self.places:
            path = Path(os.path.normpath(place / name))
            if path.is_relative_to(self.folder) and _is_file(path):
                return path
        parts = _parts(name)
        if not parts:
            return None
        splits = {split, *map(split_of, parts[:-1])} - {None}
        ranked: dict[int, list[Path]] = defaultdict(list)
        for path in self._by_name.get(parts[-1], []):
            there = _parts(path.relative_to(self.folder).as_posix())
            lies_in = set(map(split_of, there[:-1])) - {None}
            if not (splits and lies_in and splits.isdisjoint(lies_in)):
                ranked[_equal_tail(there, parts)].append(path)
        best = ranked[max(ranked)] if ranked else []
        if len(best) != 1:
            return None
        self.elsewhere.append(f"{name} -> {best[0].relative_to(self.folder).as_posix()}")
        return best[0]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in files_below(self.folder):
            if path.suffix.lower() in self.suffixes:
                found[_parts(path.name)[-1]].append(path)
        return found


def _parts(name: str) -> list[str]:
    """Folders and file of a path, each in the form in which two spellings of a name are equal."""
    parts = [part for part in re.split(r"[\\/]+", unquote(name)) if part not in ("", ".", "..")]
    if parts and re.fullmatch(r"[A-Za-z]:", parts[0]):
        del parts[0]
    return [unicodedata.normalize("NFC", part).casefold() for part in parts]


def _equal_tail(there: list[str], parts: list[str]) -> int:
    """How many parts at the end of two paths are equal."""
    equal = [one == other for one, other in zip(reversed(there), reversed(parts), strict=False)]
    return (*equal, False).index(False)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False
