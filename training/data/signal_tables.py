"""Signals in tables: a row per step, of many signals in one file or of one; read row by row.

A million rows take the memory of their numbers, not of their text.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from handlers.inputs.signal_steps import check_steps, step_value
from handlers.inputs.tables import csv_rows
from handlers.protocol.errors import RequestError
from marina.core.errors import CallError
from training.data.parquet import parquet_file
from training.data.tables import readable

TABLES = (".csv", ".tsv", ".parquet")
MOST_ROWS = 100_000_000
MOST_LISTED = 40
MISSING = ("", "na", "n/a", "nan", "null", "none")


@dataclass(frozen=True)
class Columns:
    """Which columns, or arrays, say what; the channels are all others where none is named."""

    channels: tuple[str, ...] = ()
    series: str | None = None
    step: str | None = None
    label: str = "label"
    split: str | None = None
    group: str | None = None
    channels_first: bool = False  # of arrays: [N, C, T]

    @property
    def others(self) -> tuple[str, ...]:
        """Those that are no channels."""
        return tuple(filter(None, (self.series, self.step, self.label, self.split, self.group)))


@dataclass(frozen=True)
class RawSignal:
    """A signal float32 [T, C] with its label, the word for its split, the group that must stay together, and
    where it stands; or what is wrong with it.
    """

    place: str
    values: np.ndarray
    label: str = ""
    split: str = ""
    group: str = ""
    fault: str = ""

    def labeled(self, label: str, split: str) -> "RawSignal":
        """The same with a label."""
        return replace(self, label=label, split=split)


@dataclass
class _Gathered:
    """What was read of one signal."""

    place: str
    words: tuple[str, str, str]  # label, split, group
    values: "array[float]" = field(default_factory=lambda: array("f"))
    steps: "array[float]" = field(default_factory=lambda: array("d"))
    fault: str = ""

    def signal(self, width: int) -> RawSignal:
        """Its steps in order."""
        if self.fault:
            return RawSignal(self.place, np.zeros((0, width), np.float32), *self.words, self.fault)
        values = np.frombuffer(self.values, np.float32).reshape(-1, width).copy()
        fault = ""
        if self.steps:
            steps = np.frombuffer(self.steps)
            order = np.argsort(steps, kind="stable")
            values, fault = values[order], check_steps(steps[order].tolist())
        return RawSignal(self.place, values, *self.words, fault)


def read_table(path: Path, columns: Columns, split: str) -> tuple[tuple[str, ...], list[RawSignal]]:
    """The channels, and a signal for each value of the series column, in the order of their first rows.

    Raises CallError for columns that the file lacks.
    """
    if columns.series is None:
        raise CallError(f"{path} has a row per step; name the column that says which signal it is of: series")
    found: dict[str, _Gathered] = {}
    names: tuple[str, ...] = ()
    for number, cells in enumerate(_rows(path), 1):
        if isinstance(cells, str):
            raise CallError(f"{path}: {cells}")
        names = names or _channels(path, list(cells), columns)
        key = _word(cells[columns.series])
        words = (
            _word(cells[columns.label]),
            _word(cells[columns.split]) if columns.split else split,
            _word(cells[columns.group]) if columns.group else "",
        )
        place = f"{path.name} {columns.series} {key}"
        signal = found.setdefault(key, _Gathered(place, words))
        if not key:
            signal.fault = signal.fault or f"row {number}: {columns.series} is missing"
        elif words != signal.words:
            signal.fault = signal.fault or f"row {number}: another label, split or group than the rows before"
        _gather(signal, cells, names, columns.step, f"row {number}")
    return names, [signal.signal(len(names)) for signal in found.values()]


def read_one(path: Path, columns: Columns, place: str) -> tuple[tuple[str, ...], RawSignal]:
    """The channels and the signal of a file that holds one."""
    signal = _Gathered(place, ("", "", ""))
    names: tuple[str, ...] = ()
    try:
        for number, cells in enumerate(_rows(path), 1):
            if isinstance(cells, str):
                signal.fault = signal.fault or cells
                continue
            names = names or _channels(path, list(cells), replace(columns, series=None, label=""))
            _gather(signal, cells, names, columns.step, f"row {number}")
    except CallError as error:
        signal.fault = str(error)
        return (), signal.signal(0)
    return names, signal.signal(len(names))


def _gather(signal: _Gathered, cells: Any, names: Sequence[str], step: str | None, row: str) -> None:
    """Put a row behind the others of its signal."""
    if signal.fault:
        return
    numbers = []
    for name in names:
        value = _value(cells[name])
        if isinstance(value, str):
            signal.fault = f"{row}: {name} {value}"
            return
        numbers.append(value)
    if step is not None:
        place = step_value(cells[step])
        if place is None:
            signal.fault = f"{row}: {step} is {str(cells[step])[:40]!r}, neither a number nor a time"
            return
        signal.steps.append(place)
    signal.values.extend(numbers)
    if not all(map(math.isfinite, signal.values[-len(numbers) :])):
        signal.fault = f"{row}: a value is too large for float32"


def _value(cell: Any) -> float | str:
    """The number of a cell, or what is wrong with it."""
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
        return "is missing"
    try:
        value = float("" if isinstance(cell, str) and "_" in cell else cell)
    except (TypeError, ValueError, OverflowError):
        return f"is {str(cell)[:40]!r}, not a number"
    if math.isnan(value):
        return "is missing"
    return value if math.isfinite(value) else f"is {value}"


def _channels(path: Path, header: list[str], columns: Columns) -> tuple[str, ...]:
    """The channels of a file with this header. Raises CallError for columns that it lacks."""
    if lacking := [name for name in (*columns.channels, *columns.others) if name not in header]:
        listed = ", ".join(header[:MOST_LISTED]) + (" and more" if len(header) > MOST_LISTED else "")
        raise CallError(f"{path} has no column {lacking[0]!r}; it has {listed}")
    names = columns.channels or tuple(name for name in header if name not in columns.others)
    if not names:
        raise CallError(f"{path} has no columns beside {', '.join(header)} that could be channels")
    return names


def _word(cell: Any) -> str:
    """A label or a name, in the same words from every kind of file: 3.0 of Parquet is 3."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None else str(cell).strip()


def _rows(path: Path) -> Iterator[dict[str, Any] | str]:
    """The cells of each row by column, or what is wrong with it. Raises CallError."""
    if path.suffix.lower() == ".parquet":
        with parquet_file(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    with readable(path), path.open(encoding="utf-8-sig", newline="") as stream:
        for cells in csv_rows(stream, MOST_ROWS):
            yield str(cells) if isinstance(cells, RequestError) else dict[str, Any](cells)
