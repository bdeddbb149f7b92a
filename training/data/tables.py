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
from collections.abc import Iterator
from contextlib import contextmanager
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
    """The columns' names, the rows, and whether all cells are text; with a fingerprint of the content."""

    name: str
    columns: list[str]
    rows: list[RawRow]
    is_text: bool
    fingerprint: str
    source: str = "the owner's"
    licence: str = "the owner's"
    target: str | None = None  # of bundled data
    types: dict[str, str] = field(default_factory=dict)  # of its columns


def load_table(data: str, split_column: str | None = None) -> RawTable:
    """All rows of `data`; `split_column` names the split of each. Raises CallError for what is no table."""
    if data.startswith(BUNDLED):
        return _bundled(data.removeprefix(BUNDLED))
    if data.startswith(packaged_series.PREFIX):
        return _packaged(data)
    path = paths.expanded(data)
    files = _files(path)
    tables = {split: _read(file) for split, file in files.items()}
    first = next(iter(tables.values()))
    for split, table in tables.items():
        if table.columns != first.columns or table.is_text != first.is_text:
            raise CallError(f"{files[split]} has other columns than {next(iter(files.values()))}")
    if split_column and split_column not in first.columns:
        raise CallError(f"{path} has no column {split_column!r} for the split; {listed(first.columns)}")
    rows = []
    for split, table in tables.items():
        for row in table.rows:
            word = str(row.cells.get(split_column, "")).strip() if split_column else split
            rows.append(RawRow(row.place, row.cells, word, row.fault))
    digest = hashlib.sha256("".join(table.fingerprint for table in tables.values()).encode()).hexdigest()
    return RawTable(str(path), first.columns, rows, first.is_text, digest)


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


def _read(path: Path) -> RawTable:
    if path.stat().st_size > MOST_BYTES:
        raise CallError(f"{path} has more than {MOST_BYTES:,} bytes; learn from a part of it")
    with readable(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _parquet(path, digest) if path.suffix.lower() == ".parquet" else _text(path, digest)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises CallError, with the file, for what a block fails on."""
    try:
        yield
    except (OSError, UnicodeError, RequestError) as error:
        raise CallError(f"{path} can't be read: {error}") from error


def _text(path: Path, digest: str) -> RawTable:
    rows, columns = [], list[str]()
    with readable(path), path.open(encoding="utf-8-sig", newline="") as stream:
        for number, cells in enumerate(csv_rows(stream, MOST_ROWS), 1):
            place = f"{path.name} row {number}"
            if isinstance(cells, RequestError):
                rows.append(RawRow(place, {}, fault=str(cells)))
            else:
                columns = columns or list(cells)
                rows.append(RawRow(place, cells))
    return RawTable(str(path), columns, rows, True, digest)


def _parquet(path: Path, digest: str) -> RawTable:
    with parquet_file(path) as file:
        columns = list(file.schema_arrow.names)
        if file.metadata.num_rows > MOST_ROWS:
            raise CallError(f"{path} has more than {MOST_ROWS:,} rows; learn from a part of it")
        batches = (batch.to_pylist() for batch in file.iter_batches())
        every = (row for batch in batches for row in batch)
        rows = [RawRow(f"{path.name} row {number}", _plain(row)) for number, row in enumerate(every, 1)]
    return RawTable(str(path), columns, rows, False, digest)


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
