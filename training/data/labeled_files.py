"""Files with a class each, whatever layout they come from: inspected, split where they are not, checked.

A reader of a layout gives a `Listing`; `load` and `held_out` make the data set of it.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from marina.core import paths
from marina.core.errors import CallError
from training.data import Example, ImageData
from training.data.class_order import class_order
from training.data.copies import grouped, report_copies, take
from training.data.inspection import (
    MOST_INSPECTED,
    Inspect,
    Inspected,
    inspect_all,
    inspect_ends,
    inspect_picture,
    inspect_sample,
    report_faults,
)
from training.data.limits import Limits
from training.data.packed_files import DataFile
from training.data.picture_files import SUFFIXES, files_below
from training.findings import Findings, inside

VALIDATION_SHARE = TEST_SHARE = 0.15

Files = dict[str, list[DataFile]]  # class -> its files


@dataclass(frozen=True)
class Things:
    """What has a class: `name` in the plural, an example of `files` for the layout, the suffixes of files,
    how the folder of one class is listed (its files, and those that are none), how one of them is inspected,
    what it becomes, and how one of very many is inspected that is measured on.
    """

    name: str
    files: str
    suffixes: Collection[str]
    listed: Callable[[Path], tuple[list[Path], list[Path]]]
    inspect: Inspect
    example: type[Example] = Example
    inspect_held_out: Inspect | None = None  # default: as the others


@dataclass(frozen=True)
class Listing:
    """What a layout lists: split -> class -> files; the split is "all" where it names none.

    `place` is the folder or file, `layout` how it should look, for messages. `classes` is their order where
    the layout says it.
    """

    place: Path
    splits: dict[str, Files]
    layout: str
    classes: tuple[str, ...] | None = None
    source: str = ""
    licence: str = "not stated"

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.place if self.place.is_dir() else self.place.parent

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.place.name if self.place.is_dir() else self.place.stem

    @property
    def files(self) -> list[DataFile]:
        """Of all classes."""
        return [file for of_split in self.splits.values() for files in of_split.values() for file in files]


@dataclass(frozen=True)
class Given:
    """A listing without the files that have a fault, and what was found in each."""

    listing: Listing
    things: Things
    splits: dict[str, Files]
    inspected: dict[DataFile, Inspected]

    def examples(self, files: Files, classes: Sequence[str]) -> list[Example]:
        """One for each file, class by class."""
        make = self.things.example
        return [make(image=file, label=k) for k, name in enumerate(classes) for file in files.get(name, [])]

    def data(self, parts: Sequence[Files], classes: tuple[str, ...], splits: str) -> ImageData:
        """The data set of (train, validation, test)."""
        train, validation, test = (self.examples(part, classes) for part in parts)
        listing = self.listing
        source = listing.source or f"{'folder' if listing.place.is_dir() else 'file'} {listing.place.name}"
        data = ImageData(listing.name, classes, train, validation, test, source, listing.licence)
        return replace(data, splits=splits) if splits else data

    def sound(self, files: Files, findings: Findings, limits: Limits) -> Files:
        """Those that are sound: of many files only these are checked before training."""
        if len(self.inspected) <= MOST_INSPECTED:
            return files
        every = (file for of_class in files.values() for file in of_class)
        inspected = inspect_all(every, limits, self.things.inspect_held_out or self.things.inspect)
        report_faults(inspected, self.things.name, self.listing.folder, findings)
        kept = {
            name: [file for file in of_class if not inspected[file].fault] for name, of_class in files.items()
        }
        return {name: of_class for name, of_class in kept.items() if of_class}


def load(
    listing: Listing, seed: int, findings: Findings, limits: Limits, things: Things | None = None
) -> ImageData:
    """The data set of `listing`.

    Without a test the given validation becomes the test; what is missing is split off class by class,
    decided by a hash of each file's name and `seed`, byte-equal copies together. Classes are in the order of
    the listing, else alphabetical, those that are all numbers by value. What is damaged, above the `limits`,
    or an empty class is left out and goes to the `findings`; of more than MOST_INSPECTED files, the damaged
    ones to learn from are found when they are first read. Raises CallError for fewer than two classes, for a
    class that has too few files to be split, and for a class in the test that can't be learnt from train.
    """
    given = _given(listing, things or PICTURES, findings, limits)
    (train, validation, test), splits = _split(given, seed)
    validation, test = (given.sound(part, findings, limits) for part in (validation, test))
    learned = [name for name, files in train.items() if files]
    classes = tuple(name for name in listing.classes or class_order(learned) if name in set(learned))
    _check(given, classes, validation, test, findings)
    data = given.data((train, validation, test), classes, splits)
    report_copies(data, given.inspected, listing.folder, findings, given.things.name)
    return data


def held_out(listing: Listing, findings: Findings, limits: Limits) -> ImageData:
    """The test that `listing` names, or its validation, or all of it, as `test`; nothing to learn from.

    Raises CallError where there is nothing.
    """
    given = _given(listing, PICTURES, findings, limits)
    split = next(name for name in ("test", "validation", "all", "train") if name in given.splits)
    names = {name for files in given.splits.values() for name in files}
    classes = tuple(name for name in listing.classes or class_order(names) if name in names)
    sound = given.sound(given.splits[split], findings, limits)
    data = given.data(({}, {}, sound), classes, "")
    if not data.test:
        raise CallError(f"no pictures to measure with in {listing.place}; {listing.layout}")
    report_copies(data, given.inspected, listing.folder, findings)
    return data


def unlabelled(folder: Path, findings: Findings | None = None, limits: Limits | None = None) -> list[Example]:
    """All pictures below `folder` that can be opened, without a class. Raises CallError where there are
    none.
    """
    findings = findings or Findings()
    with findings.reported():
        files, strangers = pictures_below(folder)
        inspected = inspect_all(files, limits or Limits(), _inspect(files, PICTURES))
        report_strangers(strangers, len(files), PICTURES, folder, findings)
        report_faults(inspected, "pictures", folder, findings)
        sound = [file for file in files if not inspected[file].fault]
        if not sound:
            raise CallError(f"no pictures in {folder}")
    return [Example(file) for file in sound]


def unlabelled_of(
    setting: str, name: str | None, findings: Findings, limits: Limits, hint: str
) -> list[Example]:
    """What `unlabelled` gives for the folder that a setting names; none where it names none. Raises CallError
    with the `hint`, which pictures are meant, where there is no such folder.
    """
    if name is None:
        return []
    folder = paths.expanded(name)
    if not folder.is_dir():
        raise CallError(f"{setting}: no folder {folder}; give one with pictures {hint}")
    return unlabelled(folder, findings, limits)


def pictures_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of one class, also in folders below, and the files that are none."""
    files = list(files_below(folder))
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    return pictures, [path for path in files if path.suffix.lower() not in SUFFIXES]


def report_strangers(
    strangers: Sequence[Path], files: int, things: Things, folder: Path, findings: Findings
) -> None:
    """The finding on files that are not read."""
    happened = f"left out: no {things.name}, or in no class's folder"
    findings.add("files", happened, (inside(path, folder) for path in strangers), files + len(strangers))


def _given(listing: Listing, things: Things, findings: Findings, limits: Limits) -> Given:
    """Raises CallError for a listing without files."""
    files = listing.files
    if not files:
        raise CallError(f"no {things.name} in {listing.place}; {listing.layout}")
    inspected = inspect_all(files, limits, _inspect(files, things))
    report_faults(inspected, things.name, listing.folder, findings)
    splits: dict[str, Files] = {}
    empty, count = [], 0
    for split, classes in listing.splits.items():
        splits[split] = {}
        count += len(classes)
        for name, listed in classes.items():
            if sound := [file for file in listed if not inspected[file].fault]:
                splits[split][name] = sound
            else:
                empty.append("/".join([listing.name, *([] if split == "all" else [split]), name]))
    findings.add("classes", f"left out: without {things.name}", empty, count)
    return Given(listing, things, splits, inspected)


def _inspect(files: Sequence[DataFile], things: Things) -> Inspect:
    return inspect_sample if len(files) > MOST_INSPECTED else things.inspect


def _split(given: Given, seed: int) -> tuple[tuple[Files, Files, Files], str]:
    """(train, validation, test), and in words where they come from."""
    splits, share = given.splits, f"{VALIDATION_SHARE:.0%}"
    if set(splits) == {"all"}:
        _check_count(given, splits["all"], 3)
        rest, test = _parted(given, splits["all"], TEST_SHARE, f"{seed} test")
        share_of_rest = VALIDATION_SHARE / (1 - TEST_SHARE)
        train, validation = _parted(given, rest, share_of_rest, f"{seed} validation")
        return (train, validation, test), f"split here by file names and seed {seed}, {share} each"
    if "train" not in splits or len(splits) == 1:
        place = given.listing.place
        raise CallError(f"{place} needs train/ and beside it test/ or val/; {given.listing.layout}")
    train, test = splits["train"], splits.get("test", splits.get("validation", {}))
    if {"validation", "test"} <= set(splits):
        return (train, splits["validation"], test), "as the source has them"
    _check_count(given, train, 2)
    train, validation = _parted(given, train, VALIDATION_SHARE, f"{seed} validation")
    return (train, validation, test), f"validation split off train by file names and seed {seed}, {share}"


def _check_count(given: Given, files: Files, parts: int) -> None:
    """Raise CallError for a class with fewer different files than `parts` to split it into."""
    for name, of_class in files.items():
        different = len({given.inspected[file].digest for file in of_class})
        if different < parts:
            few = f"{len(of_class)} {given.things.name.removesuffix('s')}(s)"
            few += f", byte-equal copies of {different}," if different < len(of_class) else ""
            raise CallError(
                f"class {name!r} has {few} to be split; at least 5 are needed, some dozens make sense"
            )


def _parted(given: Given, files: Files, share: float, salt: str) -> tuple[Files, Files]:
    """(the rest, `share` of each class but one of it at least), the same for the same names, whatever
    order they come in. Copies stay together, also those of several classes.
    """

    def digest(file: DataFile) -> bytes:
        return given.inspected[file].digest

    def order(file: DataFile) -> bytes:
        return hashlib.sha256(f"{salt} {file.parent.name}/{file.name}".encode()).digest()

    side: dict[bytes, bool] = {}  # digest -> whether it is in the part
    for of_class in files.values():
        groups = grouped(sorted(of_class, key=order), digest)
        wanted = max(1, round(share * len(of_class)))
        free = [group for group in groups if digest(group[0]) not in side]
        wanted -= sum(len(group) for group in groups if side.get(digest(group[0])))
        taken = {digest(file) for file in take(free, max(0, wanted))[0]}
        side |= {digest(group[0]): digest(group[0]) in taken for group in free}
    parts = []
    for wanted_side in (False, True):
        part: Files = {}
        for name, of_class in files.items():
            part[name] = sorted((file for file in of_class if side[digest(file)] is wanted_side), key=_parts)
        parts.append(part)
    return parts[0], parts[1]


def _parts(file: DataFile) -> tuple[str, ...]:
    return file.parts


def _check(given: Given, classes: Sequence[str], validation: Files, test: Files, findings: Findings) -> None:
    place, layout, things = given.listing.place, given.listing.layout, given.things
    if len(classes) < 2:
        raise CallError(
            f"{place} has {len(classes)} class(es) with {things.name} to learn from, at least 2 are "
            f"needed; {layout}"
        )
    for split, files in (("validation", validation), ("test", test)):
        if unknown := sorted(set(files) - set(classes)):
            what = f"{split} has the class(es) {', '.join(unknown)} that train has no {things.name} of"
            raise CallError(f"{place}: {what}; add some or take them out")
        if not any(files.values()):
            raise CallError(f"{place}: {split} has no {things.name} that can be read; {layout}")
        absent = [name for name in classes if not files.get(name)]
        happened = f"are missing in {split}, so nothing is measured for them"
        findings.add("classes", happened, absent, len(classes))


PICTURES = Things(
    "pictures", "*.jpg", SUFFIXES, pictures_below, inspect_picture, inspect_held_out=inspect_ends
)
