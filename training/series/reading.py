"""From the rows of a file to series of equal steps, all behind each other in flat arrays.

Rows that can't be read, that come twice, or whose time falls between the frequency's are left out and are
findings. Times that no row has are missing values.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from handlers.inputs.columns import Column
from handlers.inputs.series import SeriesInput, interpolated
from handlers.protocol.errors import RequestError
from marina.core.errors import CallError
from training.data.tables import RawRow, RawTable, listed
from training.findings import Findings


class Row(NamedTuple):
    """A row that was read; a value that is missing is NaN."""

    place: str
    time: datetime | None
    value: float
    inputs: list[Any]  # of the known columns, then the observed ones


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
    inputs: list[list[Any] | None] = field(default_factory=list)  # cells of known and observed columns [T]

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
    groups, total = _groups(raw, series, findings)
    flat = FlatSeries(starts=[0])
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    twice: list[str] = []
    off: list[str] = []
    for name, rows in groups.items():
        _add(flat, parts, series, name, rows, twice, off)
    findings.add("rows", "left out: the series has this time already", twice, total)
    findings.add("rows", f"left out: no whole number of {series.frequency}s from the first", off, total)
    for key, arrays in parts.items():
        setattr(flat, key, np.concatenate(arrays))
    return flat


def _groups(raw: RawTable, series: SeriesInput, findings: Findings) -> tuple[dict[str, list[Row]], int]:
    """The rows of each series, by name; and how many the file has."""
    groups: dict[str, list[Row]] = defaultdict(list)
    bad = list[str]()
    for row in raw.rows:
        try:
            name, read = _row(row, series, raw.is_text)
            groups[name].append(read)
        except RequestError as error:
            bad.append(f"{row.place}: {error}")
    total = sum(map(len, groups.values())) + len(bad)
    findings.add("rows", "left out: a cell can't be read", bad, total)
    if not groups:
        raise CallError(f"none of {total:,} rows can be read" + (f"; {bad[0]}" if bad else ""))
    return dict(sorted(groups.items())), total


def _row(row: RawRow, series: SeriesInput, is_text: bool) -> tuple[str, Row]:
    """Raises RequestError."""
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
    return name, Row(row.place, time, np.nan if value is None else value, inputs)


def _add(
    flat: FlatSeries,
    parts: dict[str, list[np.ndarray]],
    series: SeriesInput,
    name: str,
    rows: Sequence[Row],
    twice: list[str],
    off: list[str],
) -> None:
    """Put the rows of one series on a grid of equal steps, behind the others."""
    if series.time:
        rows = sorted(rows, key=lambda row: row.time or datetime.min)
    by_step: dict[int, Row] = {}
    first = rows[0].time
    for place, row in enumerate(rows):
        step = place if first is None or row.time is None else series.frequency.between(first, row.time)
        if step is None:
            off.append(f"{row.place}: {row.time}")
        elif step in by_step:
            twice.append(f"{row.place}: {row.time}")
        else:
            by_step[step] = row
    count = max(by_step) + 1
    values = np.full(count, np.nan)
    cells: list[list[Any] | None] = [None] * count
    for step, row in by_step.items():
        values[step], cells[step] = row.value, row.inputs
    start = series.frequency.number(first) if first else 0
    parts["values"].append(values)
    parts["filled"].append(interpolated(values) if series.missing == "interpolate" else values)
    parts["index"].append(np.full(count, len(flat.names)))
    parts["number"].append(np.arange(start, start + count))
    flat.inputs += cells if series.known or series.observed else []
    flat.names.append(name)
    flat.first_times.append(first)
    flat.starts.append(flat.starts[-1] + count)
