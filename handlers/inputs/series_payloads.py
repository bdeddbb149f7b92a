"""What a request for a forecast may look like -> the cells of each column, oldest first.

{"date": ["2001-01-01", ...], "co2": [371.1, ...]}      a list per column; one time is that of the last
                                                        value, and a known input goes on into the future
{"rows": [{"date": "2001-01-01", "co2": 371.1}, ...]}   a row per time; the future's have no target
[371.1, ...]                                            the target alone, where nothing else is needed
CSV with a header                                       rows, of several series where a column names them
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..protocol.errors import BadRequest, TooLarge
from .tables import TextRow, csv_rows, decoded_text

MOST_ROWS = 100_000  # of a CSV, and cells of a column
ROWS = "rows"

Cells = dict[str, list[Any]]


def series_of(payload: Any, most: int, series: str | None) -> list[Any] | None:
    """The instances of a body that holds several: CSV, whose rows are grouped by the column `series`, or a
    list of objects or of lists; None for one instance.

    Raises BadRequest for CSV that is none, TooLarge for more than `most` series or MOST_ROWS rows.
    """
    if isinstance(payload, bytes | str):
        text = decoded_text(payload) if isinstance(payload, bytes) else payload
        found = _groups(io.StringIO(text, newline=""), series)
    elif isinstance(payload, list) and any(isinstance(one, dict | list) for one in payload):
        found = payload
    else:
        return None
    if len(found) > most:
        raise TooLarge(f"{len(found):,} series in one request; send at most {most:,}")
    return found


def cells_of(payload: Any, names: Sequence[str], target: str) -> tuple[Cells, bool]:
    """Name -> cells of one instance, and whether all cells are text, as in CSV.

    A column's single value, as a series has a name, stays a list of one. Raises BadRequest, TooLarge.
    """
    if isinstance(payload, BadRequest):
        raise payload
    if isinstance(payload, dict) and payload.keys() == {"data"} and "data" not in names:
        payload = payload["data"]
    if isinstance(payload, dict) and payload.keys() == {ROWS} and ROWS not in names:
        return _by_row(payload[ROWS])
    if isinstance(payload, dict):
        cells = {str(name): _listed(value) for name, value in payload.items()}
    elif isinstance(payload, list | np.ndarray):
        cells = {target: _listed(payload)}
    else:
        raise BadRequest(
            f'send a list per column, {{"{target}": [...]}}, rows, {{"rows": [{{"{target}": ...}}, ...]}}, '
            "or CSV"
        )
    for name, column in cells.items():
        if len(column) > MOST_ROWS:
            raise TooLarge(f"{name} has {len(column):,} cells; send at most {MOST_ROWS:,}")
    return cells, False


def check_counts(
    cells: Cells,
    target: str,
    known: Sequence[str],
    observed: Sequence[str],
    count: int,
    window: int,
    horizon: int,
) -> None:
    """Raise BadRequest for a column with too few cells beside `count` values of the target, or with more than
    the future has.
    """
    if count < window:
        have = f"{count} value{'s' * (count != 1)}"
        raise BadRequest(f"{target} has {have}; a forecast is made from {window}: send so many or more")
    least = {**dict.fromkeys(observed, count), **dict.fromkeys(known, count + horizon)}
    for name, needed in least.items():
        if len(cells[name]) < needed:
            ahead = f" and the {horizon} behind them" if name in known else ""
            sent = f"{name} has {len(cells[name])} cells"
            raise BadRequest(f"{sent}; send one for each of the {count} values of {target}{ahead}")
    for name, column in cells.items():
        if len(column) > count + horizon:
            raise BadRequest(
                f"{name} has {len(column)} cells, {len(column) - count} of them behind the last value of "
                f"{target}; the model looks {horizon} ahead"
            )


def _listed(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        if value.ndim > 1:
            raise BadRequest(f"a tensor of {value.ndim} dimensions per series; send one, of its values")
        listed: list[Any] = value.reshape(-1).tolist()
        return listed
    return value if isinstance(value, list) else [value]


def _by_row(rows: Any) -> tuple[Cells, bool]:
    """Columns from rows; a cell that a row lacks is None."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise BadRequest('"rows" must be a list of objects, one per time, oldest first')
    if len(rows) > MOST_ROWS:
        raise TooLarge(f"{len(rows):,} rows; send at most {MOST_ROWS:,}")
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}, isinstance(rows[0], TextRow)


def _groups(stream: io.StringIO, series: str | None) -> list[Any]:
    """The rows of each series, in the order in which their first rows come."""
    groups: dict[str, list[TextRow]] = {}
    for row in csv_rows(stream, MOST_ROWS):
        if isinstance(row, BadRequest):
            raise row
        if series is not None and series not in row:
            raise BadRequest(f"the first line names no column {series!r}, which says whose values these are")
        groups.setdefault(row[series].strip() if series else "", []).append(row)
    return [{ROWS: rows} for rows in groups.values()]
