"""The values of rows that were read, by column in typed arrays: 8 bytes for a number or a date, 4 for a
category, where Python's own objects take a hundred. A million rows are tens of megabytes.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np

from handlers.inputs.columns import CategoryColumn, Column
from handlers.inputs.date_columns import EPOCH, DateColumn
from handlers.inputs.tables import Table

NO_CODE = -1  # of a missing category
NO_DATE = -(1 << 63)
MICROSECOND = timedelta(microseconds=1)


class Row(NamedTuple):
    """A row that was read: where it lies, its split's word, the columns' values, the target's."""

    place: str
    split: str
    values: list[Any]
    target: Any


class Names:
    """Texts as numbers, in the order in which they came up."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, text: str) -> int:
        """The number of a text."""
        code = self._codes.setdefault(text, len(self.texts))
        if code == len(self.texts):
            self.texts.append(text)
        return code


class StoredColumn:
    """The values of one column: numbers, dates or categories, None for a missing one."""

    def __init__(self, column: Column) -> None:
        self.kind = column.type
        self.names = Names()
        self._is_date, self._is_name = isinstance(column, DateColumn), isinstance(column, CategoryColumn)
        self._stored: array[Any] = array("q" if self._is_date else "i" if self._is_name else "d")

    def append(self, value: Any) -> None:
        """A value as the column's `parse` gives it."""
        if self._is_name:
            self._stored.append(NO_CODE if value is None else self.names.code(value))
        elif self._is_date:
            self._stored.append(NO_DATE if value is None else (value - EPOCH) // MICROSECOND)
        else:
            self._stored.append(np.nan if value is None else value)

    def __getitem__(self, index: int) -> Any:
        """The value of a row."""
        stored = self._stored[index]
        if self._is_name:
            return None if stored == NO_CODE else self.names.texts[stored]
        if self._is_date:
            return None if stored == NO_DATE else EPOCH + timedelta(microseconds=stored)
        return None if math.isnan(stored) else stored  # no number that was read is NaN


class StoredRows:
    """All rows that were read of a table: its columns, the target, the rows' places and splits."""

    def __init__(self, table: Table, target: Column) -> None:
        self.columns = [StoredColumn(column) for column in table.columns]
        self.target = StoredColumn(target)
        self.splits = StoredColumn(CategoryColumn("split"))
        self._files, self._numbers = StoredColumn(CategoryColumn("file")), array("q")

    def __len__(self) -> int:
        return len(self._numbers)

    def append(self, place: str, split: str, values: Sequence[Any], target: Any) -> None:
        """A row; `place` ends with its number in the file."""
        for column, value in zip(self.columns, values, strict=True):
            column.append(value)
        self.target.append(target)
        self.splits.append(split)
        file, _, number = place.rpartition(" ")
        self._files.append(file)
        self._numbers.append(int(number))

    def place(self, index: int) -> str:
        """Where a row lies, in words."""
        return f"{self._files[index]} {self._numbers[index]}"

    def values(self, index: int) -> list[Any]:
        """Of a row, in the columns' order."""
        return [column[index] for column in self.columns]


class Rows(Sequence[Row]):
    """Some of the stored rows, by their numbers [N]; a row is made whenever it is asked for."""

    def __init__(self, stored: StoredRows, numbers: np.ndarray) -> None:
        self.stored, self.numbers = stored, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: Any) -> Any:
        """The row at a position; the rows of a slice or an array of positions."""
        if not isinstance(position, int | np.integer):
            return Rows(self.stored, self.numbers[position])
        index, stored = int(self.numbers[position]), self.stored
        return Row(stored.place(index), stored.splits[index], stored.values(index), stored.target[index])

    def __iter__(self) -> Iterator[Row]:
        return (self[position] for position in range(len(self)))

    def of_column(self, place: int) -> list[Any]:
        """The values of the column at a place."""
        column = self.stored.columns[place]
        return [column[index] for index in self.numbers.tolist()]

    def targets(self) -> list[Any]:
        """The target of each row."""
        return [self.stored.target[index] for index in self.numbers.tolist()]

    def splits(self) -> list[str]:
        """The split's word of each row."""
        return [self.stored.splits[index] for index in self.numbers.tolist()]


class Values(Sequence[list[Any]]):
    """The values of some rows, one list a row."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: Any) -> Any:
        """The values at a position."""
        if isinstance(position, slice):
            return Values(self.rows[position])
        return self.rows.stored.values(int(self.rows.numbers[position]))

    def encoded(self, table: Table) -> np.ndarray:
        """The features of all rows by the columns of `table`: float32 [N, F]."""
        width = sum(column.width for column in table.columns)
        features = np.empty((len(self), width), np.float32)
        for position, values in enumerate(self):
            features[position] = table.encode(values)
        return features
