"""Pictures with several labels each, or none: tables, labels.json, and the objects of COCO, VOC and YOLO.

    labels.csv (.tsv, .parquet)   path,labels[,split]          a.jpg,cat;dog     with `label_separator: ;`
                                  path,cat,dog[,split]         a.jpg,1,0         a column of 0 and 1 per label
    labels.json                   {"a.jpg": ["cat", "dog"], "b.jpg": []}
    COCO, Pascal VOC, YOLO        a picture has the classes of its objects

In Parquet the labels may be lists. Not covered: shards.
"""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from marina.core.errors import CallError
from training.data import Example, ImageData, coco, label_table, object_folder
from training.data.class_order import class_order
from training.data.copies import report_copies
from training.data.inspection import report_faults
from training.data.labeled_files import PICTURES
from training.data.limits import Limits
from training.data.object_folder import Given
from training.data.parquet import parquet_file
from training.data.picture_files import SPLITS, PictureFinder
from training.findings import Findings

LEAST = 3  # pictures of a label
INDICATORS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "": False}
LAYOUT = """pictures with several labels look like one of these:

    labels.csv (.tsv, .parquet)      labels.csv               labels.json
      path,labels,split                path,cat,dog             {"a.jpg": ["cat", "dog"],
      a.jpg,cat;dog,train              a.jpg,1,1                 "b.jpg": []}
      (label_separator: ";")           b.jpg,0,0              or COCO, Pascal VOC, YOLO"""


@dataclass(frozen=True)
class Row:
    """A file's name with its labels, and the word for its split, empty where it has none."""

    name: str
    labels: tuple[str, ...]
    split: str = ""


def load(
    place: Path, seed: int, findings: Findings, limits: Limits, separator: str | None = None
) -> ImageData:
    """The data set of `place`, whose examples have `labels`, int64 [N], and no boxes.

    Splits are as `object_folder.split` makes them. Left out, with a finding, is what can't be read. Raises
    CallError for what is no such data, for a label with fewer than LEAST pictures, and for one that train has
    no picture of.
    """
    if _has_objects(place):
        found = object_folder.load(place, seed, findings, limits)
        parts = [[without_boxes(one) for one in part] for part in (found.train, found.validation, found.test)]
        return replace(found, train=parts[0], validation=parts[1], test=parts[2], has_several=True)
    with findings.reported():
        given = _given(place, findings, limits, separator)
        parts, splits = object_folder.split(given, seed)
        parts = object_folder.without_damaged(given, parts, findings, limits)
        data = _data(given, parts, splits)
        _check_labels(place, data)
        for split in ("train", "validation", "test"):
            if not getattr(data, split):
                raise CallError(f"{place}: no picture is left for {split}; add some; {LAYOUT}")
        report_copies(data, given.inspected, given.folder, findings)
        return data


def held_out(place: Path, findings: Findings, limits: Limits, separator: str | None = None) -> ImageData:
    """The test split that `place` names, else its validation, else all of it, as `test`. Raises CallError."""
    if _has_objects(place):
        found = object_folder.held_out(place, findings, limits)
        return replace(found, test=[without_boxes(one) for one in found.test], has_several=True)
    with findings.reported():
        given = _given(place, findings, limits, separator)
        names = ("test", "validation", "all", "train")
        test = next((given.splits[name] for name in names if given.splits.get(name)), [])
        if not test:
            raise CallError(f"no pictures to measure with in {place}; {LAYOUT}")
        parts = object_folder.without_damaged(given, ([], [], test), findings, limits)
        return _data(given, parts, "as the source has them")


def _has_objects(place: Path) -> bool:
    """Whether the labels are those of objects: a table counts first, but beside a COCO file of the usual
    name.
    """
    if not place.is_dir():
        return False
    is_coco = any(coco.is_likely(path) for path in coco.annotation_files(place, to_learn=False).values())
    return is_coco or (not label_table.tables_in(place) and object_folder.is_one(place))


def without_boxes(example: Example) -> Example:
    """The picture with the classes of its objects as labels."""
    return Example(example.image, labels=np.unique(example.labels), value_range=example.value_range)


def _data(given: Given, parts: Sequence[list[Example]], splits: str) -> ImageData:
    train, validation, test = parts
    name = given.folder.name
    source = f"folder {name}"
    return ImageData(
        name, given.classes, train, validation, test, source, "the owner's", splits, has_several=True
    )


def _given(place: Path, findings: Findings, limits: Limits, separator: str | None) -> Given:
    folder = place if place.is_dir() else place.parent
    rows = _read(place, separator)
    placed = _placed(rows, folder, findings)
    inspected = object_folder.inspected_pictures(placed, limits)
    report_faults(inspected, "pictures", folder, findings)
    sound = {path: row for path, row in placed.items() if not inspected[path].fault}
    classes = class_order(label for row in sound.values() for label in row.labels)
    index = {name: number for number, name in enumerate(classes)}
    examples: dict[str, list[Example]] = defaultdict(list)
    for path, row in sound.items():
        labels = np.array(sorted(index[name] for name in row.labels), np.int64)
        examples[row.split].append(Example(path, labels=labels, value_range=limits.value_range))
    return Given(folder, classes, dict(examples), inspected)


def _check_labels(place: Path, data: ImageData) -> None:
    """Raise CallError for too few labels, and for one with too few pictures."""
    if not data.classes:
        raise CallError(f"{place} has no label; {LAYOUT}")
    parts = [*data.train, *data.validation, *data.test]
    counts = Counter(int(label) for example in parts for label in example.labels)
    learned = {int(label) for example in data.train for label in example.labels}
    for number, name in enumerate(data.classes):
        if counts[number] < LEAST:
            raise CallError(
                f"{place}: the label {name!r} has {counts[number]} picture(s); {LEAST} at least are needed, "
                "some dozens make sense"
            )
        if number not in learned:
            raise CallError(f"{place}: train has no picture of the label {name!r}; add some, or take it out")


def _read(place: Path, separator: str | None) -> list[Row]:
    """The rows of all tables. Raises CallError for what is none."""
    rows = []
    for split, table in label_table.tables_by_split(place).items():
        read = list(_rows(table, separator))
        rows += [replace(row, split=row.split or split) for row in read]
    if not rows:
        raise CallError(f"{place} names no picture; {LAYOUT}")
    return rows


def _rows(table: Path, separator: str | None) -> Iterator[Row]:
    columns, cells = _cells(table)
    lower = {name.strip().lower(): name for name in columns}
    path, label, split = (
        next((lower[name] for name in names if name in lower), None)
        for names in (label_table.PATH_COLUMNS, label_table.LABEL_COLUMNS, label_table.SPLIT_COLUMNS)
    )
    if path is None:
        raise CallError(f"{table} has the columns {', '.join(columns[:12])}; call one 'path'; {LAYOUT}")
    others = [name for name in columns if name not in (path, split)]
    for number, row in enumerate(cells, 2):
        where = f"{table}, line {number}"
        if label is not None:
            labels = _labels(row.get(label), separator, where)
        else:
            labels = tuple(name.strip() for name in others if _is_set(row.get(name), name, where))
        said = label_table.cell_text(row.get(split)) if split else ""
        yield Row(label_table.cell_text(row.get(path)), labels, said)


def _cells(table: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the columns, and the rows by them. Raises CallError for a file that is no table."""
    suffix = table.suffix.lower()
    if suffix == ".parquet":
        with parquet_file(table) as file:
            return list(file.schema_arrow.names), file.read().to_pylist()
    try:
        if table.stat().st_size > label_table.MOST_BYTES:
            raise CallError(f"{table} has more than {label_table.MOST_BYTES:,} bytes; split it")
        text = table.read_text(encoding="utf-8-sig")
        if suffix == ".json":
            content = json.loads(text)
            if not isinstance(content, dict):
                raise CallError(f'{table} must say {{"file.jpg": ["label", …], …}}; {LAYOUT}')
            return ["path", "labels"], [{"path": name, "labels": said} for name, said in content.items()]
        first = text.split("\n", 1)[0]
        delimiter = "\t" if suffix == ".tsv" else max(",;\t|", key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        return list(reader.fieldnames or ()), list(reader)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise CallError(f"{table} can't be read: {error}; {LAYOUT}") from error


def _labels(said: Any, separator: str | None, where: str) -> tuple[str, ...]:
    """The labels of a cell, each once."""
    listed = said if isinstance(said, list) else [said]
    if any(isinstance(one, dict | list) for one in listed):
        raise CallError(f"{where}: the labels are {said!r:.60}, neither a name nor a list of names")
    names = [label_table.cell_text(one) for one in listed]
    if separator and not isinstance(said, list):
        names = [part.strip() for part in names[0].split(separator)]
    return tuple(dict.fromkeys(name for name in names if name))


def _is_set(cell: Any, name: str, where: str) -> bool:
    """Whether a column of 0 and 1 says that the picture has its label."""
    said = label_table.cell_text(cell).lower()
    if said not in INDICATORS:
        raise CallError(f"{where}: the column {name!r} has {said!r:.40}, neither 0 nor 1; {LAYOUT}")
    return INDICATORS[said]


def _placed(rows: Sequence[Row], folder: Path, findings: Findings) -> dict[Path, Row]:
    """File -> its row, whose split is a known one, "all" where none is named."""
    has_splits = any(row.split for row in rows)
    finder = PictureFinder(folder, (folder,), PICTURES.suffixes)
    left_out: dict[str, list[str]] = defaultdict(list)
    placed: dict[Path, Row] = {}
    for row in rows:
        split = SPLITS.get(row.split.lower(), "") if has_splits else "all"
        path = label_table.file_of(finder, row.name, split, PICTURES) if row.name and split else None
        if path is None:
            fault = "there is no such file" if split and row.name else "no file, no split or an unknown one"
            left_out[fault].append(row.name or "a row without a file")
        elif path in placed and (placed[path].labels, placed[path].split) != (row.labels, split):
            left_out["named twice, with other labels or another split: the first one counts"].append(row.name)
        else:
            placed[path] = replace(row, split=split)
    for why, names in left_out.items():
        findings.add("pictures", f"left out: {why}", names, len(rows))
    findings.add("pictures", "found under another name than the table gives", finder.elsewhere, len(rows))
    bare = [row.name for row in placed.values() if not row.labels]
    findings.add("pictures", "have no label and are kept, as ones that show none", bare, len(rows))
    return placed
