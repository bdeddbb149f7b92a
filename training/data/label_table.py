"""A table that names each file and its class: CSV, TSV, Parquet, or labels.json ({file: class}).

Files are found as annotation files name them (`picture_files.PictureFinder`), in the table's folder and never
outside it. Parquet needs the extra `parquet`.
"""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from marina.core.errors import CallError
from training.data.labeled_files import PICTURES, Files, Listing, Things
from training.data.parquet import parquet_file
from training.data.picture_files import SPLITS, PictureFinder, entries, split_of
from training.findings import Findings

SUFFIXES = (".csv", ".tsv", ".parquet")
LABELS_JSON = "labels.json"
MOST_BYTES = 1 << 30  # of a table
# names of columns as tools write them, the first one that is there counts
PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img_path"),
    *("image_name", "img", "image_id", "id"),
)
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target", "labels", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
LAYOUT = """a table of files and classes looks like this:

    FOLDER/                  labels.csv (or .tsv, .parquet)
    ├── labels.csv             path,label,split
    └── images/                images/a.jpg,cat,train
        ├── a.jpg              images/b.jpg,dog,test
        └── b.jpg            (split may be left out; or a table per split: train.csv, val.csv, test.csv;
                              or labels.json: {"images/a.jpg": "cat", …})"""


class Row(NamedTuple):
    """One line: a file's name, its class, and the word for its split, empty where it has none."""

    name: str
    label: str
    split: str = ""


def tables_in(folder: Path) -> list[Path]:
    """The tables that lie in `folder` itself."""
    found = [path for path in entries(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]
    labels = folder / LABELS_JSON
    return [labels, *found] if labels.is_file() else found


def listing_of(place: Path, findings: Findings, things: Things = PICTURES) -> Listing:
    """The files of a table, or of the tables of a folder, one per split.

    Rows without a class, without a file, with an unknown split, or that contradict others go to the
    `findings`. Raises CallError for what is no such table, and for several that name no splits.
    """
    tables = tables_by_split(place)
    rows = {split: _rows(table) for split, table in tables.items()}
    every = [row._replace(split=row.split or split) for split, part in rows.items() for row in part]
    folder = place if place.is_dir() else place.parent
    splits = _found(every, folder, things, findings)
    return Listing(place, splits, LAYOUT)


def tables_by_split(place: Path) -> dict[str, Path]:
    """Split, empty for all of them -> table."""
    if place.is_file():
        return {"": place}
    tables = tables_in(place)
    named = [path for path in tables if path.stem.lower() == "labels"]
    by_split = {split: path for path in tables if (split := split_of(path.stem))}
    if len(by_split) == len(tables) and "train" in by_split:
        return dict(by_split)
    chosen = named or tables
    if len(chosen) != 1:
        names = ", ".join(path.name for path in chosen)
        raise CallError(f"{place} has several tables: {names}; name the one to read, like {chosen[0]}")
    return {"": chosen[0]}


def _rows(table: Path) -> list[Row]:
    """All rows. Raises CallError for a file that is no such table."""
    try:
        if table.stat().st_size > MOST_BYTES:
            raise CallError(f"{table} has more than {MOST_BYTES:,} bytes; split it, one table per split")
        if table.suffix.lower() == ".json":
            return [Row(name, label) for name, label in _labels(table).items()]
        if table.suffix.lower() == ".parquet":
            return _parquet_rows(table)
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise CallError(f"{table} can't be read: {error}; {LAYOUT}") from error
    return _text_rows(table, text)


def _text_rows(table: Path, text: str) -> list[Row]:
    first = text.split("\n", 1)[0]
    delimiter = "\t" if table.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if line]
    except csv.Error as error:
        raise CallError(f"{table} is no table: {error}; {LAYOUT}") from error
    if not lines:
        raise CallError(f"{table} is empty; {LAYOUT}")
    head = [cell.strip() for cell in lines[0]]
    if Path(head[0]).suffix.lower() in {*PICTURES.suffixes, ".mp4", ".avi", ".mkv", ".webm", ".mov"}:
        head = ["path", "label", "split"][: len(head)]  # the first line is a row already
    else:
        lines = lines[1:]
    columns = _columns(table, head)
    picked = [[line[k].strip() if 0 <= k < len(line) else "" for k in columns] for line in lines]
    return [Row(*cells) for cells in picked]


def _columns(table: Path, head: Sequence[str]) -> list[int]:
    """Where path, label and split are, -1 for no split. Raises CallError, with the names that are there."""
    lower = [name.lower() for name in head]

    def place(names: Iterable[str]) -> int:
        return next((lower.index(name) for name in names if name in lower), -1)

    path, split = place(PATH_COLUMNS), place(SPLIT_COLUMNS)
    label = place(LABEL_COLUMNS)
    others = [k for k in range(len(head)) if k not in (path, split)]
    if label < 0 and len(others) == 1:
        label = others[0]  # there is no other that it could be
    if path < 0 or label < 0 or path == label:
        said = ", ".join(map(repr, head[:12]))
        raise CallError(
            f"{table} has the columns {said}; call those of the files 'path', of the classes 'label' and, if "
            f"there is one, of the splits 'split'; {LAYOUT}"
        )
    return [path, label, split]


def _parquet_rows(table: Path) -> list[Row]:
    with parquet_file(table) as file:
        names = file.schema_arrow.names
        columns = _columns(table, names)
        chosen = [names[k] for k in columns if k >= 0]
        content = file.read(columns=chosen).to_pydict()
    wrong = next((value for value in content[chosen[0]] if isinstance(value, dict | bytes)), None)
    if wrong is not None:
        raise CallError(f"{table} holds pictures, not their paths; write them to files, and their paths here")
    return [Row(*map(cell_text, cells)) for cells in zip(*content.values(), strict=True)]


def cell_text(value: Any) -> str:
    """A cell as a CSV would have it: nothing for none, 3 for 3.0."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _labels(path: Path) -> dict[str, str]:
    """File -> class. Raises CallError for a file that is no such JSON, or that names a file twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        for name, label in pairs:
            if content[name] != label:
                raise CallError(f"{path} names {name!r} twice, with other classes; take one out")
        return content

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (OSError, ValueError, RecursionError) as error:
        raise CallError(f"{path} is no JSON: {error}") from error
    if (
        not isinstance(content, dict)
        or not content
        or not all(type(label) in (str, int) for label in content.values())
    ):
        raise CallError(
            f'{path} must say {{"file.jpg": class, …}}, each class by its name or its index in the model; '
            "lists of labels are for training.several_labels: true"
        )
    return {name: str(label) for name, label in content.items()}


def _found(rows: Sequence[Row], folder: Path, things: Things, findings: Findings) -> dict[str, Files]:
    """Split -> class -> files."""
    left_out: dict[str, list[str]] = defaultdict(list)
    finder = PictureFinder(folder, (folder,), things.suffixes)
    has_splits = any(row.split for row in rows)
    placed: dict[tuple[str, Path], str] = {}
    contradicting: set[tuple[str, Path]] = set()
    for row in rows:
        split = SPLITS.get(row.split.lower(), "") if has_splits else "all"
        path = file_of(finder, row.name, split, things) if row.name and row.label and split else None
        if path is None:
            left_out[_fault(row, split)].append(row.name or "a row without a file")
        elif placed.setdefault((split, path), row.label) != row.label:
            contradicting.add((split, path))
    left_out["named twice, with other classes"] += [path.name for _, path in contradicting]
    for why, names in left_out.items():
        findings.add(things.name, f"left out: {why}", names, len(rows))
    happened = "found under another name than the table gives"
    findings.add(things.name, happened, finder.elsewhere, len(rows))
    kept = {key: label for key, label in placed.items() if key not in contradicting}
    return _by_split(kept, folder)


def _fault(row: Row, split: str) -> str:
    if not row.name or not row.label:
        return "no file or no class is given"
    return "there is no such file" if split else "no split, or an unknown one"


def file_of(finder: PictureFinder, name: str, split: str, things: Things) -> Path | None:
    """Where `name` lies, also if it lacks the suffix."""
    known = None if split == "all" else split
    if Path(name).suffix.lower() in things.suffixes:
        return finder.find(name, known)
    names = (name + suffix for suffix in sorted(things.suffixes))
    return next((path for each in names if (path := finder.find(each, known))), None)


def _by_split(placed: Mapping[tuple[str, Path], str], folder: Path) -> dict[str, Files]:
    """Split -> class -> files; where the table names no splits, by the folders train/ and so on, if all files
    lie in such.
    """
    splits: dict[str, Files] = defaultdict(lambda: defaultdict(list))
    lies_in = {path: _split_folder(path, folder) for _, path in placed}
    by_folder = "train" in lies_in.values() and None not in lies_in.values()
    for (split, path), label in placed.items():
        of_folder = lies_in[path] if by_folder and split == "all" else None
        splits[of_folder or split][label].append(path)
    return {split: dict(files) for split, files in splits.items()}


def _split_folder(path: Path, folder: Path) -> str | None:
    parts: Iterator[str] = (part.lower() for part in path.relative_to(folder).parts[:-1])
    return next((SPLITS[part] for part in parts if part in SPLITS), None)
