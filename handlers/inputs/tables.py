"""Rows of a table: objects by the columns' names, lists in their order, or CSV -> the graph's features.

preprocess_config.json lists the columns (`inputs.columns`) in the order of a row without names:

    {"type": "table", "columns": [{"type": "number", "name": "age", ...}, ...], "missing_values": ["", "NA"]}
"""

import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TextIO

import numpy as np

from ..protocol.errors import BadRequest, TooLarge
from .columns import CategoryColumn, Column, NumberColumn
from .date_columns import DateColumn

TYPES: dict[str, type[Column]] = {one.type: one for one in (NumberColumn, CategoryColumn, DateColumn)}
DELIMITERS = ",;\t|"
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


class TextRow(dict[str, str]):
    """A row of CSV: cells by the column's name, all of them text."""


@dataclass(frozen=True)
class Table:
    """The columns of a row, in their order, and the texts that stand for a missing cell."""

    columns: tuple[Column, ...]
    missing_values: frozenset[str] = frozenset()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Table":
        """Of preprocess_config.json."""
        columns = tuple(TYPES[one["type"]].from_config(one) for one in config["columns"])
        return cls(columns, frozenset(config.get("missing_values", ())))

    def as_config(self) -> dict[str, Any]:
        """The content of preprocess_config.json."""
        columns = [column.as_config() for column in self.columns]
        return {"type": "table", "columns": columns, "missing_values": sorted(self.missing_values)}

    @cached_property
    def names(self) -> list[str]:
        """Of the columns."""
        return [column.name for column in self.columns]

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The features of each column."""
        found, start = {}, 0
        for column in self.columns:
            found[column.name] = slice(start, start + column.width)
            start += column.width
        return found

    def read(self, payload: Any) -> list[Any]:
        """The values of a row in the columns' order, None for a missing one.

        Raises BadRequest, by the column's name, for what isn't exactly such a row.
        """
        if isinstance(payload, BadRequest):
            raise payload
        cells = self._cells(payload)
        if len(cells) != len(self.columns):
            raise BadRequest(
                f"the row has {len(cells)} cells, and the columns are {len(self.columns)}: {self._listed()}"
            )
        is_text = isinstance(payload, TextRow)
        return [self.value(*pair, is_text) for pair in zip(self.columns, cells, strict=True)]

    def value(self, column: Column, cell: Any, is_text: bool) -> Any:
        """The value of one cell, None for a missing one. Raises BadRequest."""
        value = self.parse(column, cell, is_text)
        column.check(value)
        return value

    def parse(self, column: Column, cell: Any, is_text: bool) -> Any:
        """As `value`, whether the model can take it or not."""
        if isinstance(cell, np.ndarray | np.generic):
            if cell.size != 1:
                raise BadRequest(f"{column.name} has {cell.size} values; send {column.words()}")
            cell = cell.item()
        if isinstance(cell, bytes):
            cell = decoded_text(cell)
        if isinstance(cell, str):
            is_missing = cell.strip() in self.missing_values
        else:
            is_missing = cell is None or (isinstance(cell, int | float) and cell in self._missing_numbers)
        return None if is_missing else column.parse(cell, is_text)

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        """The features of a row's values: float32 [F]."""
        features: list[float] = []
        for column, value in zip(self.columns, values, strict=True):
            features += column.encode(value)
        return np.array(features, np.float32)

    def sent(self, values: Sequence[Any]) -> dict[str, Any]:
        """Values as a request has them, in JSON."""
        return {one.name: one.sent(value) for one, value in zip(self.columns, values, strict=True)}

    def example(self) -> str:
        """The form of a row, in words."""
        shown = ", ".join(f'"{column.name}": {column.words()}' for column in self.columns[:4])
        return "{" + shown[:300] + (", …" if len(self.columns) > 4 else "") + "}"

    @cached_property
    def _missing_numbers(self) -> set[float]:
        """Those of the texts that are numbers, as -999 is."""
        return {float(text) for text in self.missing_values if _NUMBER.fullmatch(text)}

    def _cells(self, payload: Any) -> Sequence[Any]:
        if isinstance(payload, dict):
            return self._by_name(payload)
        if isinstance(payload, np.ndarray) and payload.ndim < 2:
            return list(payload.reshape(-1))
        if isinstance(payload, list):
            return payload
        if len(self.columns) == 1 and isinstance(payload, str | int | float | bytes | None):
            return [payload]
        raise BadRequest(f"send a row as {self.example()}, as a list in this order, or rows as CSV")

    def _by_name(self, payload: dict[Any, Any]) -> list[Any]:
        if unknown := [key for key in payload if key not in self.slices]:
            close = difflib.get_close_matches(str(unknown[0]), self.names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the columns are {self._listed()}"
            raise BadRequest(f"there is no column {str(unknown[0])[:60]!r}; {hint}")
        if lacking := [column for column in self.columns if column.name not in payload]:
            or_null = ", or null if it is unknown" if lacking[0].imputes else ""
            raise BadRequest(
                f"the column {lacking[0].name!r} is left out; send {lacking[0].words()}{or_null}"
            )
        return [payload[name] for name in self.names]

    def _listed(self) -> str:
        text = ", ".join(self.names)
        return text if len(text) <= 300 else text[:300] + "…"


def rows_of(payload: Any, most: int) -> list[Any] | None:
    """The rows of a body that holds several: CSV with a header, or a list of rows; None for one row.

    A row of CSV with more or fewer cells than the header is a BadRequest in its place. Raises BadRequest for
    CSV without a header and TooLarge for more than `most` rows.
    """
    if isinstance(payload, bytes | str):
        text = decoded_text(payload) if isinstance(payload, bytes) else payload
        return list(csv_rows(io.StringIO(text, newline=""), most))
    if not isinstance(payload, list) or not any(isinstance(row, dict | list) for row in payload):
        return None
    if len(payload) > most:
        raise TooLarge(f"{len(payload):,} rows in one request; send at most {most:,}")
    return payload


def csv_rows(stream: TextIO, most: int) -> Iterator[TextRow | BadRequest]:
    """The rows of CSV, by the names in its first line; separated by the one of DELIMITERS that this has most
    of. A row with more or fewer cells is a BadRequest. Raises as `rows_of`.
    """
    first = stream.readline()
    stream.seek(0)
    reader = csv.reader(stream, delimiter=max(DELIMITERS, key=first.count), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header) or len(set(header)) < len(header):
            raise BadRequest("CSV must begin with a line that names the columns, each once")
        count = 0
        for cells in reader:
            if not cells:
                continue
            count += 1
            if count > most:
                raise TooLarge(f"more than {most:,} rows in one request; send at most so many")
            if len(cells) != len(header):
                found = f"line {reader.line_num} has {len(cells)} cells"
                yield BadRequest(f"{found}, the first line {len(header)}")
            else:
                yield TextRow(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadRequest(f"line {reader.line_num} is no CSV: {error}") from None
    if not count:
        raise BadRequest("CSV must have at least one row below the line that names the columns")


def decoded_text(content: bytes) -> str:
    """UTF-8, with or without its byte order mark. Raises BadRequest."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the text is no UTF-8 (byte {error.start}); convert it") from None
