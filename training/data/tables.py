"""Rows of a table: CSV, TSV, Parquet, a folder with a file per split, or what packages bring.

    data: patients.csv                    one file
    data: patients/                       train.csv, validation.csv (or val), test.csv, or .tsv, .parquet
    data: sklearn:diabetes                also breast_cancer and wine
    data: statsmodels:co2                 also sunspots

Cells come as they lie in the file; `training.tables.preparation` reads them, with the code that serves.
"""

import datetime
import hashlib
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.inputs.tables import csv_rows
from handlers.protocol.errors import RequestError
from marina.core import paths
from marina.core.errors import CallError
from training.data import packaged_series
from training.data.parquet import parquet_file
from training.data.picture_files import entries, split_of

SUFFIXES = (".csv", ".tsv", ".parquet")
BUNDLED = "sklearn:"
# data set -> (where it is from, licence)
SOURCES = {
    "diabetes": ("scikit-learn load_diabetes: Efron et al. 2004, Least Angle Regression", "public"),
    "breast_cancer": (
        "scikit-learn load_breast_cancer: UCI Breast Cancer Wisconsin (Diagnostic), Street et al. 1993",
        "CC BY 4.0",
    ),
    "wine": ("scikit-learn load_wine: UCI Wine, Aeberhard and Forina 1991", "CC BY 4.0"),
}
MOST_BYTES = 1 << 30  # of a file
MOST_ROWS = 10_000_000
BATCH_ROWS = 4096  # of a Parquet file that are Python's objects at a time


@dataclass(frozen=True)
class RawRow:
    """A row's cells by their columns, where it lies, and the word for its split, empty where it has none.

    A line with too many or too few cells has the `fault` in their place.
    """

    place: str
    cells: dict[str, Any]
    split: str = ""
    fault: str = ""


@dataclass
class RawTable:
    """The columns' names, the rows, which may be read again whenever they are asked for, and whether all
    cells are text; with a fingerprint of the content.
    """

    name: str
    columns: list[str]
    rows: Iterable[RawRow]
    is_text: bool
    fingerprint: str
    source: str = "the owner's"
    licence: str = "the owner's"
    target: str | None = None  # of bundled data
    types: dict[str, str] = field(default_factory=dict)  # of its columns


@dataclass(frozen=True)
class FileRows:
    """The rows of files by their splits, read again, row by row, whenever they are asked for: none is kept.

    Raises CallError, with the file, for what can't be read.
    """

    files: Mapping[str, Path]
    split_column: str | None = None

    def __iter__(self) -> Iterator[RawRow]:
        for split, path in self.files.items():
            for row in _read(path):
                word = str(row.cells.get(self.split_column, "")).strip() if self.split_column else split
                yield RawRow(row.place, row.cells, word, row.fault)


def load_table(data: str, split_column: str | None = None) -> RawTable:
    """All rows of `data`; `split_column` names the split of each. Raises CallError for what is no table."""
    if data.startswith(BUNDLED):
        return _bundled(data.removeprefix(BUNDLED))
    if data.startswith(packaged_series.PREFIX):
        return _packaged(data)
    path = paths.expanded(data)
    files = _files(path)
    digests = "".join(map(_digest, files.values()))
    columns = {split: _columns(file) for split, file in files.items()}
    first, columns_of_first = next(iter(columns.items()))
    is_text = {_is_text(file) for file in files.values()}
    for split, names in columns.items():
        if names != columns_of_first or len(is_text) > 1:
            raise CallError(f"{files[split]} has other columns than {files[first]}")
    if split_column and split_column not in columns_of_first:
        raise CallError(f"{path} has no column {split_column!r} for the split; {listed(columns_of_first)}")
    digest = hashlib.sha256(digests.encode()).hexdigest()
    return RawTable(str(path), columns_of_first, FileRows(files, split_column), is_text.pop(), digest)


def listed(columns: list[str]) -> str:
    """The columns of a file, in words."""
    return f"it has {', '.join(columns[:40])}" + (" and more" if len(columns) > 40 else "")


def _files(path: Path) -> dict[str, Path]:
    """Split, empty for all -> file. Raises CallError."""
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise CallError(f"data {path}: not {', '.join(SUFFIXES)}")
        return {"": path}
    if not path.is_dir():
        raise CallError(f"data {path}: no such file or folder; give a table, {', '.join(SUFFIXES)}")
    tables = [file for file in entries(path) if file.suffix.lower() in SUFFIXES and file.is_file()]
    by_split = {split: file for file in tables if (split := split_of(file.stem))}
    if len(tables) == 1:
        return {"": tables[0]}
    if "train" not in by_split or len(by_split) != len(tables):
        names = ", ".join(file.name for file in tables[:8]) or "no table"
        raise CallError(
            f"{path} has {names}; give one table, or one per split: train.csv, validation.csv, test.csv"
        )
    return by_split


def _digest(path: Path) -> str:
    """Of the content. Raises CallError for a file that is too large or can't be read."""
    if path.stat().st_size > MOST_BYTES:
        raise CallError(f"{path} has more than {MOST_BYTES:,} bytes; learn from a part of it")
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_text(path: Path) -> bool:
    return path.suffix.lower() != ".parquet"


def _columns(path: Path) -> list[str]:
    """The names of a file's columns. Raises CallError."""
    if _is_text(path):
        with closing(_read(path)) as rows:
            return next((list(row.cells) for row in rows if not row.fault), [])
    with parquet_file(path) as file:
        if file.metadata.num_rows > MOST_ROWS:
            raise CallError(f"{path} has more than {MOST_ROWS:,} rows; learn from a part of it")
        return list(file.schema_arrow.names)


def _read(path: Path) -> Generator[RawRow]:
    return _text(path) if _is_text(path) else _parquet(path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises CallError, with the file, for what a block fails on."""
    try:
        yield
    except (OSError, UnicodeError, RequestError) as error:
        raise CallError(f"{path} can't be read: {error}") from error


def _text(path: Path) -> Generator[RawRow]:
    with readable(path), path.open(encoding="utf-8-sig", newline="") as stream:
        for number, cells in enumerate(csv_rows(stream, MOST_ROWS), 1):
            place = f"{path.name} row {number}"
            if isinstance(cells, RequestError):
                yield RawRow(place, {}, fault=str(cells))
            else:
                yield RawRow(place, cells)


def _parquet(path: Path) -> Generator[RawRow]:
    with parquet_file(path) as file:
        number = 0
        for batch in file.iter_batches(BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield RawRow(f"{path.name} row {number}", _plain(row))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Cells as JSON would have them: dates as text, no NaN, which pandas writes for a missing number."""
    return {
        name: value.isoformat()
        if isinstance(value, datetime.date)
        else None
        if isinstance(value, float) and math.isnan(value)
        else value
        for name, value in row.items()
    }


def _bundled(name: str) -> RawTable:
    from sklearn import datasets

    if name not in SOURCES:
        raise CallError(f"data {BUNDLED}{name}: unknown; known: {', '.join(SOURCES)}")
    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**options)
    columns = [str(column) for column in bunch.feature_names]
    classes = getattr(bunch, "target_names", None)
    truths = bunch.target.tolist() if classes is None else [str(classes[index]) for index in bunch.target]
    target = "progression" if name == "diabetes" else "class"
    rows = [
        RawRow(f"row {number}", {**dict(zip(columns, values, strict=True)), target: truth})
        for number, (values, truth) in enumerate(zip(bunch.data.tolist(), truths, strict=True), 1)
    ]
    digest = hashlib.sha256(bunch.data.tobytes() + bunch.target.tobytes()).hexdigest()
    source, licence = SOURCES[name]
    types = dict.fromkeys(columns, "number")
    named = f"{BUNDLED}{name}"
    return RawTable(named, [*columns, target], rows, False, digest, source, licence, target, types)


def _packaged(data: str) -> RawTable:
    """A series of an installed package."""
    found = packaged_series.load_series(data.removeprefix(packaged_series.PREFIX))
    rows = [RawRow(f"row {number}", cells) for number, cells in enumerate(found.rows, 1)]
    return RawTable(data, found.columns, rows, False, found.fingerprint, found.source, found.licence)
