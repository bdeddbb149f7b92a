"""Labeled texts as files list them: tables, JSON lines, and folders with a file per text.

mail.csv, .tsv, .parquet     text,label[,split][,group]      each also packed, like mail.jsonl.xz
mail.jsonl                   {"text": …, "label": …}         an object a line; several labels as a list
FOLDER/train.csv, test.csv   one table per split
FOLDER/CLASS/*.txt           or FOLDER/train/CLASS/*.txt     one text per file
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from marina.core.errors import CallError
from training.data.label_table import LABEL_COLUMNS, SPLIT_COLUMNS, cell_text
from training.data.parquet import parquet_file
from training.data.picture_files import SPLITS, entries, files_below, folders, split_of
from training.data.text_files import form_of, read_text
from training.findings import Findings, inside

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
TEXT_COLUMNS = (
    *("text", "sentence", "content", "message", "body", "document", "review", "comment", "utterance"),
    *("tweet", "title", "input"),
)
GROUP_COLUMNS = ("group", "group_id", "cluster", "thread")
PAIR_COLUMNS = ("positive", "paraphrase", "answer", "text2", "sentence2")
ID_COLUMNS = ("id", "name", "key")
LAYOUT = """labeled texts look like one of these:

    texts.csv (.tsv, .parquet,     FOLDER/                FOLDER/
    .jsonl; also .gz, .xz)         ├── train.csv          ├── spam/*.txt
      text,label,split             └── test.csv           └── mail/*.txt
      hello,mail,train                                    (or FOLDER/train/spam/*.txt …)
    (split may be left out)"""

WITHOUT_LABELS = """beside 'text' there may be 'positive' (a text of the same meaning), 'group' or 'label'
(which texts belong together), 'id' and 'split'"""


class TextRow(NamedTuple):
    """A text with its labels, the word for its split (empty for none), the group that must stay together
    (empty for none), and where it stands; of texts without labels also one of the same meaning, and an id.
    """

    text: str
    labels: tuple[str, ...]
    split: str
    group: str
    place: str
    positive: str = ""
    name: str = ""

    @property
    def stratum(self) -> tuple[str, ...]:
        """The first of its labels, which splits are drawn evenly by."""
        return self.labels[:1]


class Rows(NamedTuple):
    """All rows of a data set, and whether a text may have several labels."""

    rows: list[TextRow]
    has_several: bool


def read_rows(
    place: Path, encoding: str, separator: str | None, findings: Findings, needs_label: bool = True
) -> Rows:
    """The rows of a table, of a folder of tables or of a folder of files. `separator` is between the labels
    of one text; in JSON and Parquet they are a list.

    Raises CallError for what is none of these.
    """
    if place.is_file():
        return _joined([_table_rows(place, encoding, separator, "", needs_label)])
    if not place.is_dir():
        raise CallError(f"data {str(place)!r} is neither a file nor a folder; {LAYOUT}")
    tables = [path for path in entries(place) if form_of(path) in TABLES and path.is_file()]
    if tables:
        return _joined(
            [
                _table_rows(path, encoding, separator, split, needs_label)
                for path, split in _by_split(place, tables).items()
            ]
        )
    return Rows(_file_rows(place, encoding, findings), False)


def _joined(parts: Sequence[Rows]) -> Rows:
    rows = [row for part in parts for row in part.rows]
    return Rows(rows, any(part.has_several for part in parts))


def _by_split(folder: Path, tables: Sequence[Path]) -> dict[Path, str]:
    """Table -> the split that its name says."""
    found = {path: split_of(path.name.split(".")[0]) or "" for path in tables}
    if len(tables) > 1 and not (all(found.values()) and "train" in found.values()):
        names = ", ".join(path.name for path in tables)
        raise CallError(f"{folder} has several tables: {names}; name the one to read, like {tables[0]}")
    return found


def _table_rows(
    path: Path, encoding: str, separator: str | None, split: str, needs_label: bool = True
) -> Rows:
    form = form_of(path)
    if form not in TABLES:
        raise CallError(f"{path} is no table of texts; {LAYOUT}")
    cells = {".parquet": _parquet_cells, ".jsonl": _json_cells, ".ndjson": _json_cells}.get(form, _csv_cells)
    rows, has_several = [], separator is not None
    for number, (text, label, own_split, group, positive, name) in cells(path, encoding, needs_label):
        if not isinstance(text, str):
            raise CallError(f"{path}, line {number}: the text is {_short(text)}, not a string")
        labels, is_list = _labels(label, separator, f"{path}, line {number}")
        has_several = has_several or is_list
        where = f"{path.name}, line {number}"
        if not isinstance(positive, str | None):
            raise CallError(f"{path}, line {number}: the second text is {_short(positive)}, not a string")
        own = (cell_text(own_split) or split, cell_text(group), where, positive or "", cell_text(name))
        rows.append(TextRow(text, labels, *own))
    return Rows(rows, has_several)


def _labels(label: Any, separator: str | None, place: str) -> tuple[tuple[str, ...], bool]:
    """The labels of a cell, each once, and whether it was a list."""
    is_list = isinstance(label, list | tuple)
    listed = list(label) if is_list else [label]
    if any(isinstance(one, dict | list) for one in listed):
        raise CallError(f"{place}: the label is {_short(label)}, neither a name nor a list of names")
    names = [cell_text(one) for one in listed]
    if separator and not is_list:
        names = [part.strip() for part in names[0].split(separator)]
    return tuple(dict.fromkeys(name for name in names if name)), is_list


Cells = Iterator[tuple[int, tuple[Any, ...]]]  # number of the line; text, label, split, group, second, id


def _csv_cells(path: Path, encoding: str, needs_label: bool) -> Cells:
    text = read_text(path, encoding)
    first = text.split("\n", 1)[0]
    delimiter = "\t" if form_of(path) == ".tsv" else max(",;\t|", key=first.count)
    csv.field_size_limit(len(text) + 1)  # one text may be a book
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[int] | None = None
    start = 1
    try:
        for cells in reader:
            if columns is None:
                columns = _columns(path, [cell.strip() for cell in cells], needs_label)
            elif cells:
                yield start, tuple(cells[k] if 0 <= k < len(cells) else "" for k in columns)
            start = reader.line_num + 1
    except csv.Error as error:
        raise CallError(f"{path}, line {reader.line_num}: {error}; quote texts with line breaks") from error
    if columns is None:
        raise CallError(f"{path} is empty; {LAYOUT}")


def _json_cells(path: Path, encoding: str, needs_label: bool) -> Cells:
    columns: list[str] | None = None
    for number, line in enumerate(read_text(path, encoding).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CallError(f"{path}, line {number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            form = '{"text": …, "label": …}'
            raise CallError(f"{path}, line {number}: write an object {form} on each line")
        if columns is None:
            names = list(row)
            columns = [names[k] if k >= 0 else "" for k in _columns(path, names, needs_label)]
        yield number, _picked(row, columns)


def _parquet_cells(path: Path, _encoding: str, needs_label: bool) -> Cells:
    with parquet_file(path) as file:
        names = list(file.schema_arrow.names)
        columns = [names[k] if k >= 0 else "" for k in _columns(path, names, needs_label)]
        content = file.read(columns=[name for name in columns if name]).to_pylist()
    for number, row in enumerate(content, 1):
        yield number, _picked(row, columns)


def _picked(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) if name else None for name in columns)


def _columns(path: Path, head: Sequence[str], needs_label: bool) -> list[int]:
    """Where text, label, split, group, second text and id are, -1 for none; the last two only where no label
    is needed. Raises CallError with the names that are there.
    """
    lower = [name.lower() for name in head]

    def place(names: Iterable[str]) -> int:
        return next((lower.index(name) for name in names if name in lower), -1)

    text, label = place(TEXT_COLUMNS), place(LABEL_COLUMNS)
    if text < 0 or (label < 0 and needs_label):
        said = ", ".join(map(repr, head[:12]))
        raise CallError(
            f"{path} has the columns {said}; call that of the texts 'text', that of the labels 'label' and, "
            f"if there is one, that of the splits 'split'; {LAYOUT if needs_label else WITHOUT_LABELS}"
        )
    others = [-1, -1] if needs_label else [place(PAIR_COLUMNS), place(ID_COLUMNS)]
    return [text, label, place(SPLIT_COLUMNS), place(GROUP_COLUMNS), *others]


def _file_rows(folder: Path, encoding: str, findings: Findings) -> list[TextRow]:
    """A text per file; the folder that it lies in is its class."""
    places = {path: SPLITS[path.name.lower()] for path in folders(folder) if path.name.lower() in SPLITS}
    if "train" not in places.values():
        places = {folder: ""}
    rows: list[TextRow] = []
    strangers: list[str] = []
    broken: dict[str, CallError] = {}
    for place, split in places.items():
        for of_class in folders(place):
            for path in files_below(of_class):
                if form_of(path) != ".txt":
                    strangers.append(inside(path, folder))
                    continue
                name = inside(path, folder)
                try:
                    rows.append(TextRow(read_text(path, encoding), (of_class.name,), split, "", name))
                except CallError as error:
                    broken[name] = error
    findings.add("files", "left out: no .txt", strangers, len(rows) + len(strangers))
    happened = f"left out: they can't be read as {encoding}, see training.encoding"
    findings.add("files", happened, broken, len(rows) + len(broken))
    if not rows:
        raise next(iter(broken.values()), CallError(f"no texts in {folder}; {LAYOUT}"))
    return rows


def _short(value: Any) -> str:
    return repr(value)[:60]
