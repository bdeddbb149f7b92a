"""From the rows of a file to series of equal steps, all behind each other in flat arrays.

Rows that can't be read, that come twice, or whose time falls between the frequency's are left out and are
findings. Times that no row has are missing values.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from handlers.inputs.columns import Column
from handlers.inputs.series import SeriesInput, interpolated
from handlers.inputs.tables import Table
from handlers.protocol.errors import RequestError
from marina.core.errors import CallError
from training.data.tables import RawRow, RawTable, listed
from training.findings import Findings
from training.tables.stored_rows import StoredRows


class Inputs(Sequence[list[Any] | None]):
    """Cells of the known and then of the observed columns at every time, None where no row is of it; made of
    the `stored` rows when they are asked for, by their numbers int64 [T], -1 for none.
    """

    def __init__(self, stored: StoredRows, numbers: np.ndarray, first: int) -> None:
        self.stored, self.numbers, self.first = stored, numbers, first

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: Any) -> Any:
        """The cells at a time."""
        number = int(self.numbers[place])
        return None if number < 0 else self.stored.values(number)[self.first :]


@dataclass
class FlatSeries:
    """All series behind each other, T times in all."""

    names: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # of each series, and the end of the last
    first_times: list[datetime | None] = field(default_factory=list)
    index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # of the series [T]
    number: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # of the time [T]
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))  # float64 [T], NaN where missing
    filled: np.ndarray = field(default_factory=lambda: np.zeros(0))  # the same, interpolated where allowed
    inputs: Sequence[list[Any] | None] = ()  # cells of known and observed columns [T]

    def time(self, position: int, series: SeriesInput) -> datetime | None:
        """Of a position."""
        place = int(self.index[position])
        first = self.first_times[place]
        return None if first is None else series.frequency.after(first, position - self.starts[place])


def read_series(raw: RawTable, series: SeriesInput, findings: Findings) -> FlatSeries:
    """The series of a file's rows, by the columns of `series`.

    Raises CallError for columns that the file lacks, and where no row can be read.
    """
    names = series.table.names
    if lacking := [name for name in names if name not in raw.columns]:
        raise CallError(f"{raw.name} has no column {lacking[0]!r}; {listed(raw.columns)}")
    stored, total = _stored(raw, series, findings)
    flat = FlatSeries(starts=[0])
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    twice: list[str] = []
    off: list[str] = []
    groups: dict[str, list[int]] = defaultdict(list)
    for number in range(len(stored)):
        groups[stored.splits[number]].append(number)
    for name in sorted(groups):
        _add(flat, parts, series, name, stored, groups.pop(name), twice, off)
    findings.add("rows", "left out: the series has this time already", twice, total)
    findings.add("rows", f"left out: no whole number of {series.frequency}s from the first", off, total)
    numbers = np.concatenate(parts.pop("rows"))
    if series.known or series.observed:
        flat.inputs = Inputs(stored, numbers, 1 if series.time else 0)
    for key, arrays in parts.items():
        setattr(flat, key, np.concatenate(arrays))
    return flat


def _stored(raw: RawTable, series: SeriesInput, findings: Findings) -> tuple[StoredRows, int]:
    """The rows that can be read, of which the split is the series; and how many the file has."""
    columns = (*filter(None, (series.time,)), *series.known, *series.observed)
    stored, bad = StoredRows(Table(columns), series.target), list[str]()
    for row in raw.rows:
        try:
            stored.append(row.place, *_row(row, series, raw.is_text))
        except RequestError as error:
            bad.append(f"{row.place}: {error}")
    total = len(stored) + len(bad)
    findings.add("rows", "left out: a cell can't be read", bad, total)
    if not len(stored):
        raise CallError(f"none of {total:,} rows can be read" + (f"; {bad[0]}" if bad else ""))
    return stored, total


def _row(row: RawRow, series: SeriesInput, is_text: bool) -> tuple[str, list[Any], float | None]:
    """The series, the time and the cells of known and observed columns, the value. Raises RequestError."""
    if row.fault:
        raise RequestError(row.fault)

    def parse(column: Column) -> Any:
        return series.table.parse(column, row.cells[column.name], is_text)

    name = parse(series.series) if series.series else ""
    time = parse(series.time) if series.time else None
    for column, value in ((series.series, name), (series.time, time)):
        if column is not None and value is None:
            raise RequestError(f"{column.name} is missing")
    value = parse(series.target)
    if value is not None:
        series.check_transform(value)
    inputs = [parse(column) for column in (*series.known, *series.observed)]
    return name, [*([time] if series.time else []), *inputs], value


def _add(
    flat: FlatSeries,
    parts: dict[str, list[np.ndarray]],
    series: SeriesInput,
    name: str,
    stored: StoredRows,
    numbers: list[int],
    twice: list[str],
    off: list[str],
) -> None:
    """Put the rows of one series, by their numbers, on a grid of equal steps, behind the others."""
    times = stored.columns[0] if series.time else None
    if times is not None:
        numbers.sort(key=times.__getitem__)
    by_step: dict[int, int] = {}
    first = times[numbers[0]] if times is not None else None
    for place, number in enumerate(numbers):
        time = times[number] if times is not None else None
        step = place if first is None or time is None else series.frequency.between(first, time)
        if step is None:
            off.append(f"{stored.place(number)}: {time}")
        elif step in by_step:
            twice.append(f"{stored.place(number)}: {time}")
        else:
            by_step[step] = number
    count = max(by_step) + 1
    rows, values = np.full(count, -1), np.full(count, np.nan)
    for step, number in by_step.items():
        value = stored.target[number]
        rows[step], values[step] = number, np.nan if value is None else value
    start = series.frequency.number(first) if first else 0
    parts["rows"].append(rows)
    parts["values"].append(values)
    parts["filled"].append(interpolated(values) if series.missing == "interpolate" else values)
    parts["index"].append(np.full(count, len(flat.names)))
    parts["number"].append(np.arange(start, start + count))
    flat.names.append(name)
    flat.first_times.append(first)
    flat.starts.append(flat.starts[-1] + count)
