"""Sentences whose words have tags, in three splits.

FILE.conllu             CoNLL-U: the word in column 2, its tag in a column of the settings
FILE.conll, .iob, .txt  a word a line with its tag in the last column, an empty line behind a sentence
FILE.jsonl              {"tokens": [...], "tags": [...]} on each line
FOLDER                  train.*, dev.* or validation.*, test.*, or files whose sentences are split by the seed
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from handlers.inputs.texts import TextLimits, fault_of
from handlers.kinds.tag_spans import OUTSIDE
from marina.core import paths
from marina.core.errors import CallError
from training.data.copies import SPLITS
from training.data.labeled_files import TEST_SHARE, VALIDATION_SHARE
from training.data.picture_files import entries, split_of
from training.data.split_data import SplitData, owners
from training.data.text_files import form_of, json_lines, read_text
from training.findings import Findings

CONLLU, LINES = (".conllu",), (".jsonl", ".ndjson")
COLUMNS = (".conll", ".iob", ".iob2", ".bio", ".txt", ".tsv")
CONLLU_COLUMNS = {"upos": 3, "xpos": 4, "deprel": 7}
SPLIT_NAMES = {"dev": "validation", "devel": "validation"}  # beside those of all data
LAYOUT = (
    "tagged sentences are .conllu, .conll (a word a line with its tag last, an empty line behind each), "
    '.jsonl ({"tokens": […], "tags": […]}), or a folder of train.conll, dev.conll, test.conll'
)


class Sentence(NamedTuple):
    """Words, their tags, and where the sentence stands."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: str


@dataclass(frozen=True, kw_only=True)
class TaggedData(SplitData[Sentence]):
    """Sentences in three splits, and the tags that their words have."""

    tags: tuple[str, ...]

    def content(self, one: Sentence) -> bytes:
        """Its words and tags."""
        return f"{one.words}{one.tags}".encode()


def load_tagged(data: str, column: str, seed: int, findings: Findings, limits: TextLimits) -> TaggedData:
    """The sentences of a file or folder. Equal sentences stay in one split where it is drawn by `seed`.

    What serving would refuse is left out, and goes to the `findings`. Raises CallError for what is no such
    data, for tags of test that train lacks, and for a split without sentences.
    """
    place = paths.expanded(data)
    with findings.reported():
        by_split = read_sentences(place, column, findings, limits)
        splits, words = _split(by_split, seed, place)
    tags = tuple(
        sorted({tag for one in splits["train"] for tag in one.tags}, key=lambda tag: (tag != OUTSIDE, tag))
    )
    if len(tags) < 2:
        raise CallError(f"{place} has the tags {', '.join(tags) or 'none'}; two at least are needed")
    for split in SPLITS[1:]:
        unknown = Counter(tag for one in splits[split] for tag in one.tags if tag not in tags)
        if unknown:
            listed = ", ".join(unknown)
            kept = [one for one in splits[split] if not unknown.keys() & set(one.tags)]
            happened = f"left out: they have the tag(s) {listed}, which train has not"
            lost = [one.place for one in splits[split] if unknown.keys() & set(one.tags)]
            with findings.reported():
                findings.add(f"sentences of {split}", happened, lost, len(splits[split]))
            splits[split] = kept
        if not splits[split]:
            raise CallError(f"{place}: no sentence is left for {split}; add some")
    return TaggedData(tags=tags, **splits, splits=words, origin=owners(place.name))


def read_sentences(
    place: Path, column: str, findings: Findings, limits: TextLimits
) -> dict[str, list[Sentence]]:
    """Split ("" for none) -> sentences. Raises CallError for what is no such file or folder."""
    files = {place: ""} if place.is_file() else {}
    if place.is_dir():
        known = (*CONLLU, *COLUMNS, *LINES)
        files = {path: named_split(path.name) for path in entries(place) if form_of(path) in known}
    if not files:
        raise CallError(f"data {str(place)!r}: {LAYOUT}")
    found: dict[str, list[Sentence]] = {}
    for path, split in files.items():
        read = {True: _conllu, False: _columns}[form_of(path) in CONLLU]
        rows = [*(_lines(path) if form_of(path) in LINES else read(path, column))]
        faults = [
            fault_of(" ".join(one.words), limits)
            or ("" if all(map(str.strip, one.words)) else "an empty word")
            for one in rows
        ]
        for fault in dict.fromkeys(filter(None, faults)):
            lost = [one.place for one, own in zip(rows, faults, strict=True) if own == fault]
            findings.add("sentences", f"left out: {fault}", lost, len(rows))
        found.setdefault(split, []).extend(one for one, own in zip(rows, faults, strict=True) if not own)
    return found


def named_split(name: str) -> str:
    """The split that a file's name says, as in train.conll and de_hdt-ud-dev.conllu; empty for none."""
    parts = re.split(r"[-_.]", name.lower())[:-1]
    return next((SPLIT_NAMES.get(part) or split_of(part) or "" for part in reversed(parts)), "")


def _split(found: dict[str, list[Sentence]], seed: int, place: Path) -> tuple[dict[str, list[Sentence]], str]:
    splits = {name: found.get(name, []) for name in SPLITS}
    drawn = found.get("", [])
    if drawn and any(splits.values()):
        raise CallError(f"{place}: some files name a split, others don't; name it for all, or for none")
    if not splits["test"] and splits["validation"]:
        splits["test"], splits["validation"] = splits["validation"], []
    words = "as the source has them"
    if drawn:
        splits["train"], splits["test"] = _parted(drawn, TEST_SHARE, seed)
        words = f"drawn with seed {seed}, {TEST_SHARE:.0%} each, copies together"
    if not splits["validation"]:
        share = VALIDATION_SHARE / (1 - TEST_SHARE) if drawn else VALIDATION_SHARE
        splits["train"], splits["validation"] = _parted(splits["train"], share, seed + 1)
        words = words if drawn else f"validation drawn from train with seed {seed}"
    return splits, words


def _parted(rows: Sequence[Sentence], share: float, seed: int) -> tuple[list[Sentence], list[Sentence]]:
    """(the rest, about `share` of the sentences); equal ones together."""
    different = sorted({one.words for one in rows})
    random.Random(seed).shuffle(different)
    taken = set(different[: round(share * len(different))])
    return [one for one in rows if one.words not in taken], [one for one in rows if one.words in taken]


def _conllu(path: Path, column: str) -> Iterator[Sentence]:
    index = CONLLU_COLUMNS.get(column)
    if index is None:
        raise CallError(f"column: CoNLL-U has {', '.join(CONLLU_COLUMNS)}, not {column!r}")
    for start, lines in _blocks(path):
        cells = [line.split("\t") for line in lines if not line.startswith("#")]
        rows = [row for row in cells if row[0].isdecimal()]  # neither ranges (1-2) nor empty nodes (1.1)
        if wrong := [row for row in cells if len(row) != 10]:
            raise CallError(f"{path}, sentence at line {start}: {len(wrong[0])} columns instead of 10")
        if rows:
            yield _sentence([row[1] for row in rows], [row[index] for row in rows], path, start)


def _columns(path: Path, _column: str) -> Iterator[Sentence]:
    for start, lines in _blocks(path):
        rows = [
            line.split("\t" if "\t" in line else None) for line in lines if not line.startswith("-DOCSTART-")
        ]
        if short := [line for line, row in zip(lines, rows, strict=False) if len(row) < 2]:
            raise CallError(f"{path}, sentence at line {start}: {short[0][:40]!r} has no tag; {LAYOUT}")
        if rows:
            yield _sentence([row[0] for row in rows], [row[-1] for row in rows], path, start)


def _lines(path: Path) -> Iterator[Sentence]:
    for number, (words, tags) in json_lines(path, itemgetter("tokens", "tags"), LAYOUT):
        strings = (
            isinstance(words, list)
            and isinstance(tags, list)
            and all(isinstance(one, str) for one in [*words, *tags])
        )
        if not strings or len(words) != len(tags) or not words:
            raise CallError(f"{path}, line {number}: as many tags as tokens are needed, all of them strings")
        yield _sentence(words, tags, path, number)


def _sentence(words: Sequence[str], tags: Sequence[str], path: Path, number: int) -> Sentence:
    return Sentence(tuple(words), bio(tags), f"{path.name}, line {number}")


def bio(tags: Sequence[str]) -> tuple[str, ...]:
    """IOB1 and IOBES as BIO; other tags as they are."""
    found, before = [], OUTSIDE
    for tag in tags:
        kind, dash, label = tag.partition("-")
        own = tag
        if dash and kind in ("B", "I", "E", "S") and label:
            begins = kind in ("B", "S") or before[2:] != label
            own = f"{'B' if begins else 'I'}-{label}"
        found.append(own)
        before = own
    return tuple(found)


def _blocks(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines between empty ones, and the number of the first."""
    block: list[str] = []
    for number, line in enumerate([*read_text(path).splitlines(), ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []
